# %% [markdown]
# # Mean average precision: one number for a detector
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/PacktPublishing/Modern-Computer-Vision-with-PyTorch-2E/blob/main/Chapter07/Mean_average_precision.ipynb)
#
# "Our detector reaches an mAP of 0.42." What does that say, and what does it not say? You will compute this number step
# by step: match detections with true boxes, draw a precision–recall curve, take the area under it, and average over
# classes, IoU thresholds and sizes as COCO does. Your result will equal that of torchmetrics to the sixth decimal. Then you
# will build detectors with the same mAP that you would never confuse in practice, and measure how far the number
# would move with other test photos.
#
# The photos are [BCCD](https://github.com/Shenggan/BCCD_Dataset) (MIT): 364 photos of blood smears with boxes around
# three kinds of cells. The detector needs no network and no pretrained weights.

# %%
import sys

if "google.colab" in sys.modules:
    %pip install -q "torchmetrics[detection]>=1.6,<2"

# %% [markdown]
# That is the one package that Colab lacks. The imports, and the numbers you may want to turn:

# %%
import io
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython import display
from matplotlib.colors import to_rgba
from matplotlib.patches import FancyBboxPatch, Rectangle
from PIL import Image
from torchmetrics.detection import MeanAveragePrecision
from torchvision import ops
from torchvision.datasets.utils import download_and_extract_archive
from tqdm.auto import tqdm

plt.style.use("seaborn-v0_8-colorblind")
plt.rcParams.update({"figure.dpi": 110, "font.size": 11})

# %% tags=["parameters"]
URL = "https://github.com/Shenggan/BCCD_Dataset/archive/d272fb14cdff6e473fafeeeba32aba5f560e9e43.zip"  # 9 MB
CLASSES = ("Platelets", "RBC", "WBC")  # of the labels 1, 2, 3; 0 is the background
WIDTH = 320  # of the photos, pixels; they are shrunk from 640
VALIDATION = 0.15  # share of the fields of view
TEST = 0.25  # share of the fields of view
LEVELS = 32  # steps of each color channel, for the detector
STRIDE = 4  # pixels between two of the detector's windows
TOP = 200  # windows of each class and photo that go into non-maximum suppression
NMS_THRESHOLD = 0.4  # IoU from which of two boxes the worse one is dropped; chosen in the notebook before
SCORE = 0.15  # from which a detection is drawn and counted, where one threshold is needed
FLOOD = 60  # useless boxes that section 5 adds to every photo
SHIFT = 2  # pixels by which section 5 moves every box
RESAMPLES = 300  # of the test photos, in the bootstrap
REQUIRED_MAP50 = 0.2  # mAP at IoU 0.5 on test photos by which the detector must beat copied boxes

# %% [markdown]
# ## 1. A detector and its number
#
# We need a detector that makes mistakes of all kinds. The collapsed cell holds one of a hundred lines, without a
# network: it learns from the training photos how often each *color* lies in each kind of cell, and searches the photo for windows
# whose colors speak for a cell more than the frame around them does. What falls on one cell many times is thinned by
# [non-maximum suppression](Non_max_suppression.ipynb). The photos are split by field of view, as
# [the notebook on boxes](Creating_bounding_box_ground_truth.ipynb) explains.

# %%
# @title Chapter setup: photos, a detector without a network, drawing
SAME_FIELD = (  # numbers of the photos that show the same cells again, found in Creating_bounding_box_ground_truth
    (19, 20), (37, 38), (40, 41), (44, 45), (107, 108), (204, 205, 276, 277), (206, 278), (207, 279),
    (223, 224, 225, 262, 263, 264), (226, 261), (227, 260), (228, 259), (229, 258), (230, 257), (231, 232, 255, 256),
    (233, 254), (236, 253), (237, 252), (239, 240), (242, 248, 249), (243, 250), (244, 247), (377, 400), (381, 397),
    (382, 395), (384, 393), (386, 391))


def bccd_folder(url):
    """Folder of Annotations and JPEGImages in a GitHub archive at a commit, kept in torch's cache; downloaded once."""
    root = Path(torch.hub.get_dir()) / "datasets"
    folder = root / f"BCCD_Dataset-{Path(url).stem}"
    if not folder.exists():
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as partial:  # a part of the archive is never taken for the whole
            try:
                download_and_extract_archive(url, partial, filename="bccd.zip")
            except (OSError, RuntimeError, zipfile.BadZipFile) as error:
                raise RuntimeError(f"{url} could not be downloaded: check the network and run again") from error
            (Path(partial) / folder.name).rename(folder)
    return next(folder.rglob("Annotations")).parent


def read_voc(path, classes):
    """Boxes (k, 4) xyxy in pixels, as stored, and labels (k,), 1 for the first of `classes`, of a VOC XML file."""
    objects = list(ElementTree.parse(path).getroot().iter("object"))
    corners = [[float(one.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")] for one in objects]
    labels = [classes.index(one.findtext("name")) + 1 for one in objects]
    return torch.tensor(corners).view(-1, 4), torch.tensor(labels, dtype=torch.int64)


def field_of(name, same_field):
    """Number of the field of view of a photo BloodImage_00257: the smallest number of the photos that show it."""
    number = int(name.rpartition("_")[2])
    return next((min(group) for group in same_field if number in group), number)


def load_bccd(folder, width, classes, same_field):
    """Photos uint8 (n, 3, 0.75 width, width); of each its boxes (k, 4) xyxy and labels (k,); the fields (n,).

    Boxes are scaled with the photos, and those without area are left out.
    """
    def load(path):
        with Image.open(folder / "JPEGImages" / f"{path.stem}.jpg") as image:
            scale = width / image.width
            small = image.convert("RGB").resize((width, round(image.height * scale)), Image.Resampling.BILINEAR)
        boxes, labels = read_voc(path, classes)
        real = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1), scale * boxes[real], labels[real]

    paths = sorted((folder / "Annotations").glob("*.xml"))
    with ThreadPoolExecutor() as pool:  # Pillow decodes in several threads
        photos, boxes, labels = zip(*tqdm(pool.map(load, paths), total=len(paths), desc="photos", leave=False))
    fields = torch.tensor([field_of(path.stem, same_field) for path in paths])
    return torch.stack(photos), list(boxes), list(labels), fields


def split_groups(groups, validation, test, seed=0):
    """Row numbers of train, val and test; whole groups (n,) in each, `validation` and `test` are shares of groups."""
    names = groups.unique()
    names = names[torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))]
    val, test = int(validation * len(names)), int(test * len(names))
    parts = dict(zip(("val", "test", "train"), names.split([val, test, len(names) - val - test]), strict=True))
    return {part: torch.isin(groups, some).nonzero().squeeze(1) for part, some in parts.items()}


def area(boxes):
    """Signed areas (n,) of boxes (n, 4) xyxy: negative where just one pair of corners is swapped."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def iou(a, b):
    """Intersection over union (n, m) of boxes a (n, 4) and b (m, 4), xyxy."""
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    return shared / (area(a)[:, None] + area(b)[None] - shared)


def color_numbers(photos, levels):
    """Number (n, h, w) of the color of each pixel of uint8 photos (n, 3, h, w), `levels` steps for each channel."""
    red, green, blue = (photos.long() * levels // 256).unbind(1)
    return (red * levels + green) * levels + blue


def pixel_labels(boxes, labels, height, width):
    """Label (height, width) of the cell, an ellipse in its box, that a pixel lies in; 0: none; small cells on top."""
    x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
    found = torch.zeros(height, width, dtype=torch.int64)
    for k in area(boxes).argsort(descending=True).tolist():
        x0, y0, x1, y1 = boxes[k].tolist()
        found[((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1] = labels[k]
    return found


def learn_colors(photos, boxes, labels, classes, levels):
    """Of each color's pixels in photos (n, 3, h, w), the share in no cell and in each class: (levels³, classes + 1)."""
    where = torch.stack([pixel_labels(*pair, *photos.shape[2:]) for pair in zip(boxes, labels)])
    both = color_numbers(photos, levels) * (classes + 1) + where
    counts = torch.bincount(both.flatten(), minlength=levels**3 * (classes + 1)).view(-1, classes + 1).double()
    counts += 20 * counts.sum(0) / counts.sum()  # a color never seen has the shares of all pixels
    return counts / counts.sum(1, keepdim=True)


def search_windows(boxes, labels, height, width, stride):
    """Windows (n, 4) xyxy of whole pixels and their labels (n,): three sizes of each class, all over the photo."""
    y, x = torch.meshgrid(torch.arange(0, height, stride), torch.arange(0, width, stride), indexing="ij")
    centers, windows, found = torch.stack([x, y], dim=2).view(-1, 2), [], []
    for label in labels.unique().tolist():
        some = boxes[labels == label]
        for size in (some[:, 2:] - some[:, :2]).quantile(torch.tensor([0.2, 0.5, 0.8]), dim=0):
            low = centers - (size / 2).round().long()
            windows.append(torch.cat([low, low + size.round().long()], dim=1))
            found.append(torch.full((len(centers),), label))
    limit = torch.tensor([width, height, width, height])
    return torch.minimum(torch.cat(windows).clamp(min=0), limit), torch.cat(found)


def frames_around(windows, height, width, share=0.1):
    """Windows (n, 4), wider by a share of their sides in each direction, as far as the photo goes."""
    reach = (share * (windows[:, 2:] - windows[:, :2])).round().long().clamp(min=1)
    wider = torch.cat([windows[:, :2] - reach, windows[:, 2:] + reach], dim=1)
    return torch.minimum(wider.clamp(min=0), torch.tensor([width, height, width, height]))


def window_sums(maps, windows, labels):
    """Sum (n,) of the map maps[label] of maps (k, h, w) inside each window (n, 4), by four look-ups."""
    total = F.pad(maps.cumsum(1).cumsum(2), (1, 0, 1, 0))  # of all pixels above and to the left
    x0, y0, x1, y1 = windows.T
    return total[labels, y1, x1] - total[labels, y0, x1] - total[labels, y1, x0] + total[labels, y0, x0]


def color_detector(photo, table, levels, windows, labels, top):
    """Boxes (n, 4), scores and labels (n,) of a photo (3, h, w), the `top` of each class, with many for each cell.

    A window scores as its class's share of colors inside exceeds that in a frame around it.
    """
    maps = table[color_numbers(photo[None], levels)[0]].permute(2, 0, 1)
    frames = frames_around(windows, *photo.shape[1:])
    inside, around = (window_sums(maps, some, labels) for some in (windows, frames))
    scores = inside / area(windows) - (around - inside) / (area(frames) - area(windows)).clamp(min=1)
    rows = torch.cat([rows[scores[rows].argsort(descending=True)[:top]]
                      for rows in [(labels == label).nonzero()[:, 0] for label in labels.unique()]])
    rows = rows[scores[rows] > 0]
    return {"boxes": windows[rows].float(), "scores": scores[rows].float(), "labels": labels[rows]}


def coco_map(predictions, targets, **options):
    """torchmetrics' result, a dict of tensors, for detections and targets on the CPU (boxes xyxy in pixels)."""
    recalls = np.linspace(0, 1, 101).tolist()  # COCO's; torchmetrics' own are the same in single precision
    metric = MeanAveragePrecision(box_format="xyxy", class_metrics=True, rec_thresholds=recalls, **options)
    metric.update(predictions, targets)
    return metric.compute()


def show_boxes(ax, image, boxes, color, width=2):
    """Show a photo (3, h, w) uint8 if one is given, and boxes (n, 4) xyxy in its pixels."""
    if image is not None:
        ax.imshow(image.permute(1, 2, 0))
        ax.axis("off")
    for x0, y0, x1, y1 in boxes.tolist():
        ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=color, lw=width))


def show_as_jpeg(figure):
    """Show a figure with photos as a JPEG, which takes a tenth of the space of a PNG."""
    data = io.BytesIO()
    figure.savefig(data, format="jpeg", pil_kwargs={"quality": 88})
    plt.close(figure)
    display.display(display.Image(data.getvalue()))


def by_score(prediction, label=None):
    """Boxes (n, 4), scores (n,) and labels (n,) of one photo, best first; of one class if `label` is given."""
    rows = torch.arange(len(prediction["scores"])) if label is None else (prediction["labels"] == label).nonzero()[:, 0]
    rows = rows[prediction["scores"][rows].argsort(descending=True, stable=True)]
    return prediction["boxes"][rows], prediction["scores"][rows], prediction["labels"][rows]


def above(prediction, score):
    """The detections that score at least `score`."""
    return {key: values[prediction["scores"] >= score] for key, values in prediction.items()}


def verdicts(prediction, target, labels, threshold=0.5):
    """Boxes of one photo, over all classes: `hit` and `false` detections, `missed` true boxes."""
    parts = {"hit": [torch.zeros(0, 4)], "false": [torch.zeros(0, 4)], "missed": [torch.zeros(0, 4)]}
    for label in labels:
        boxes, _, _ = by_score(prediction, label)
        truth = target["boxes"][target["labels"] == label]
        taken = match(boxes, truth, threshold)
        free = torch.ones(len(truth), dtype=torch.bool)
        free[taken[taken >= 0]] = False
        for kind, some in (("hit", boxes[taken >= 0]), ("false", boxes[taken < 0]), ("missed", truth[free])):
            parts[kind].append(some)
    return {kind: torch.cat(some) for kind, some in parts.items()}


def show_verdicts(ax, image, found):
    """Show a photo with its hits (green), false detections (orange), and missed cells (black, dashed)."""
    show_boxes(ax, image, found["hit"], "C1")
    show_boxes(ax, None, found["false"], "C2", width=1.5)
    for x0, y0, x1, y1 in found["missed"].tolist():
        ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec="black", lw=1.5, ls="--"))


def draw_envelope(precision, recall, title):
    """A precision-recall curve, its envelope, and COCO's 101 points on it."""
    fig, ax = plt.subplots(figsize=(7.4, 3.8), layout="constrained")
    envelope = precision.flip(0).cummax(0).values.flip(0)
    points = np.linspace(0, 1, 101)
    index = torch.searchsorted(recall, torch.from_numpy(points))
    ax.plot(recall, precision, color="0.45", lw=1, label="precision after each detection")
    ax.step(recall, envelope, where="pre", color="C0", lw=2, label="envelope: best precision from here on")
    ax.plot(points, torch.cat([envelope, torch.zeros(1)])[index], "o", color="C2", ms=3, label="COCO's 101 points")
    ax.set(xlabel="recall", ylabel="precision", xlim=(-0.01, 1.01), ylim=(0, 1.03), title=title)
    ax.legend(fontsize=9, loc="lower left")
    plt.show()


# %%
folder = bccd_folder(URL)
photos, boxes, labels, fields = load_bccd(folder, WIDTH, CLASSES, SAME_FIELD)
parts = {part: rows.tolist() for part, rows in split_groups(fields, VALIDATION, TEST).items()}
targets = {part: [{"boxes": boxes[row], "labels": labels[row]} for row in rows] for part, rows in parts.items()}
kinds = range(1, len(CLASSES) + 1)
print({part: len(rows) for part, rows in parts.items()}, "photos,", sum(map(len, boxes)), "boxes")

# %% [markdown]
# Build the detector from the training photos, and let it look at the validation and test photos:

# %%
train = parts["train"]
table = learn_colors(photos[train][..., ::2, ::2], [boxes[k] / 2 for k in train], [labels[k] for k in train],
                     len(CLASSES), LEVELS)  # every second pixel is enough
windows, window_labels = search_windows(torch.cat([boxes[k] for k in train]), torch.cat([labels[k] for k in train]),
                                        *photos.shape[2:], STRIDE)
predictions = {part: [] for part in ("val", "test")}
for part, row in tqdm([(one, row) for one in predictions for row in parts[one]], desc="photos", leave=False):
    found = color_detector(photos[row], table, LEVELS, windows, window_labels, TOP)
    keep = ops.batched_nms(*found.values(), NMS_THRESHOLD)[:100]
    predictions[part].append({key: values[keep] for key, values in found.items()})

# %%
number = coco_map(predictions["val"], targets["val"])
row, sure = parts["val"][0], above(predictions["val"][0], SCORE)
fig, ax = plt.subplots(figsize=(6.4, 5.2), layout="constrained")
show_boxes(ax, photos[row], boxes[row], "C1", width=1.5)
show_boxes(ax, None, sure["boxes"], "C2")
ax.set_title(f"A validation photo: {len(boxes[row])} true boxes (green), {len(sure['boxes'])} detections from score "
             f"{SCORE} on (orange)", fontsize=10)
print(f"all validation photos, by torchmetrics: mAP {number['map']:.3f}, mAP at IoU 0.5: {number['map_50']:.3f}")
show_as_jpeg(fig)

# %% [markdown]
# The green boxes are the truth, the orange ones what the detector says. Some fit, some are doubles, many cells have none.
# How can one number sum that up, over all photos and all scores?
#
# ## 2. Matching: who found what?
#
# Take one class, one photo, and an IoU threshold, 0.5 say. Go through the detections from the highest score to the
# lowest. Each takes the true box with which it has the largest IoU, if that is at least the threshold and nobody has
# taken it before. Then it is a **hit** (true positive). Otherwise it is **false** (false positive). True boxes that
# nobody has taken are **missed** (false negatives).

# %%
# DRAWING HELPERS

# %%
# @title Schematic: detections choose in the order of their scores
ax = canvas(7.6, 2.5)
ax.text(0.1, 2.2, "detections, best first", fontsize=10.5)
ax.text(4.1, 0.35, "true boxes", fontsize=10.5)
found = [box(ax, x, 1.55, text, color, width=1.05, height=0.7) for x, text, color in (
    (0.65, "score 0.9\nhit", "tab:blue"), (1.85, "score 0.8\nhit", "tab:blue"),
    (3.05, "score 0.7\nfalse", "tab:orange"), (4.25, "score 0.4\nfalse", "tab:orange"))]
truth = [box(ax, x, 0.4, name, "tab:green", width=1.0, height=0.45)
         for x, name in ((0.65, "1"), (1.85, "2"), (3.4, "3, missed"))]
arrow(ax, found[0], truth[0], "0.8")
arrow(ax, found[1], truth[1], "0.6")
ax.text(5.0, 1.55, "beside the arrows: IoU\n\nscore 0.7: its true box is taken,\nit is a double\n"
        "score 0.4: all its IoUs are below 0.5", fontsize=9.5, va="center")
plt.show()

# %% [markdown]
# With $d_1, d_2, \ldots$ in the order of their scores and the true boxes $g_j$ that are still free:
#
# $$j^\ast = \arg\max_{j\ \mathrm{free}} \mathrm{IoU}(d_k, g_j), \qquad
# d_k \text{ is a hit} \iff \mathrm{IoU}(d_k, g_{j^\ast}) \ge t$$

# %%
def match(boxes, truth, threshold=0.5):
    """For each box (n, 4), best score first, the index of the true box (m, 4) it takes, or -1; each is taken once."""
    overlap, taken = iou(boxes, truth), torch.full((len(boxes),), -1)
    for k in range(len(boxes) if len(truth) else 0):
        best = overlap[k].argmax()
        if overlap[k, best] >= threshold:
            taken[k] = best
            overlap[:, best] = -1
    return taken


# %% [markdown]
# A toy case: two true boxes, and four detections, best first.

# %% tags=["nbval-check-output"]
toy_truth = torch.tensor([[10.0, 10.0, 50.0, 50.0], [60.0, 10.0, 100.0, 50.0]])
toy_boxes = torch.tensor([[12.0, 12.0, 50.0, 52.0], [10.0, 8.0, 50.0, 48.0], [70.0, 10.0, 110.0, 50.0],
                          [80.0, 30.0, 120.0, 70.0]])
print("IoU", iou(toy_boxes, toy_truth).numpy().round(2).tolist())
print("taken at 0.5 :", match(toy_boxes, toy_truth).tolist())
print("taken at 0.75:", match(toy_boxes, toy_truth, 0.75).tolist())

# %% [markdown]
# The second detection fits the first true box a little better than the first one does, but the first one scored
# higher and chose before. So the second is a double, and false. At 0.75 the third no longer fits well enough.
#
# The photo of section 1 again, now with verdicts. Each class is matched on its own.

# %%
drawn = verdicts(sure, targets["val"][0], kinds)
fig, ax = plt.subplots(figsize=(6.4, 5.2), layout="constrained")
show_verdicts(ax, photos[row], drawn)
ax.set_title(f"{len(drawn['hit'])} hits (green), {len(drawn['false'])} false detections (orange), "
             f"{len(drawn['missed'])} missed (dashed)", fontsize=11)
show_as_jpeg(fig)

# %% [markdown]
# One photo at one score threshold gives three counts. Another threshold would give three others. The next section looks at
# all thresholds at once.
#
# ## 3. From hits to average precision
#
# Put the detections of *all* photos into one list, best score first, and draw a line after the $k$-th. Above it there
# are $\mathrm{TP}_k$ hits. **Precision** is the share of hits among the detections above the line, **recall** the share
# of the $M$ true boxes that they found:
#
# $$P_k = \frac{\mathrm{TP}_k}{k}, \qquad R_k = \frac{\mathrm{TP}_k}{M}$$
#
# Going down the list, recall can only rise. Precision moves up with each hit and down with each false detection.

# %%
def precision_recall(predictions, targets, label, threshold=0.5):
    """Scores, precision and recall, each (n,), of one class: one point for each detection, best first."""
    scores, hits, total = [torch.zeros(0)], [torch.zeros(0, dtype=torch.bool)], 0
    for prediction, target in zip(predictions, targets):
        boxes, confidence, _ = by_score(prediction, label)
        truth = target["boxes"][target["labels"] == label]
        scores, hits = [*scores, confidence], [*hits, match(boxes, truth, threshold) >= 0]
        total += len(truth)
    scores, order = torch.cat(scores).sort(descending=True, stable=True)
    found = torch.cat(hits)[order].double().cumsum(dim=0)
    return scores, found / torch.arange(1, len(scores) + 1), found / total


# %% [markdown]
# The curves of the three classes on the validation photos, each with the point where the score passes `SCORE`:

# %%
fig, ax = plt.subplots(figsize=(7.4, 3.9), layout="constrained")
curves = {name: precision_recall(predictions["val"], targets["val"], k) for k, name in zip(kinds, CLASSES)}
for k, (name, (scores, precision, recall)) in enumerate(curves.items()):
    ax.plot(recall, precision, ("-", "--", "-.")[k], color=f"C{k}", lw=2, label=name)
    cut = max(int((scores >= SCORE).sum()) - 1, 0)
    ax.plot(recall[cut], precision[cut], "o", color=f"C{k}", ms=8)
best = max(curves, key=lambda name: curves[name][2][-1])
ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
ax.set_title(f"The list as a whole finds {curves[best][2][-1]:.0%} of the {best}; dots: score {SCORE}")
ax.legend(fontsize=10)
plt.show()

# %% [markdown]
# Read a curve from the left: the surest detections come first. A long flat part means that recall grows while precision
# holds. Where a curve ends, the list ends: the cells to the right of it are never found, at any score. The dots lie at very
# different places: the same score means different things for the three classes.
#
# The zigzag comes from single detections. Two more steps make a number of it. The **envelope** replaces each precision by
# the best one that is reached at this recall *or a higher one*: whoever can have more recall with more precision will not
# stay here. The **average precision** is the area below the envelope. COCO reads it off at 101 values of recall:
#
# $$\mathrm{AP} = \frac{1}{101} \sum_{r \in \{0, 0.01, \ldots, 1\}} \ \max_{k:\ R_k \ge r} P_k \qquad
# (\text{0 where no } R_k \text{ reaches } r)$$

# %%
def average_precision(precision, recall):
    """COCO's average precision of a precision-recall curve, both (n,): mean of the envelope at 101 recalls."""
    envelope = torch.cat([precision.flip(0).cummax(dim=0).values.flip(0), precision.new_zeros(1)])
    return envelope[torch.searchsorted(recall, torch.from_numpy(np.linspace(0, 1, 101)))].mean().item()


# %%
shown = CLASSES[0]
_, precision, recall = curves[shown]
draw_envelope(precision, recall, f"{shown}: AP {average_precision(precision, recall):.3f} at IoU 0.5, "
                                 f"recall never exceeds {recall[-1]:.2f}")

# %% [markdown]
# Beyond the last recall the envelope is 0: what the detector never finds costs it, at any score. Older results use
# other readings of the same curve. VOC 2007 took 11 points, VOC from 2010 on the exact area. Compare them:

# %%
def ap_readings(precision, recall):
    """Average precision of a curve, both (n,), read as by VOC 2007 (11 points), VOC 2010 (exact area), COCO (101)."""
    envelope = torch.cat([precision.flip(0).cummax(0).values.flip(0), precision.new_zeros(1)])
    eleven = envelope[torch.searchsorted(recall, torch.from_numpy(np.linspace(0, 1, 11)))].mean().item()
    steps = torch.diff(recall, prepend=recall.new_zeros(1))
    return {"VOC 2007": eleven, "VOC 2010": (steps * envelope[:-1]).sum().item(),
            "COCO": average_precision(precision, recall)}


pd.DataFrame({name: ap_readings(*curve[1:]) for name, curve in curves.items()}).T.round(4)

# %% [markdown]
# The three agree within a few hundredths. That is little, but it is more than many a paper's gain, so never compare two
# numbers that were read in two ways.
#
# ## 4. COCO's mAP: classes, thresholds, sizes
#
# **Mean** average precision is a mean of APs over the classes. Since COCO, it also runs over ten IoU thresholds, 0.5,
# 0.55, …, 0.95, so that tight boxes pay off. That is "mAP" without a subscript; mAP$_{50}$ stays at 0.5.
#
# $$\mathrm{mAP} = \frac{1}{|\mathrm{classes}|} \sum_c \frac{1}{10} \sum_{t} \mathrm{AP}_{c,t}$$

# %%
# @title Schematic: what is averaged over what
ax = canvas(7.6, 2.3)
places = [box(ax, x, 1.6, text, color, width=width, height=0.7) for x, text, color, width in (
    (0.8, "photos, scores\npooled", "gray", 1.4), (2.5, "$P_k$, $R_k$", "tab:blue", 1.0),
    (4.75, "AP$_{c,t}$", "tab:blue", 0.9), (7.0, "mAP", "tab:green", 0.9))]
arrow(ax, places[0], places[1])
arrow(ax, places[1], places[2], "101 points")
arrow(ax, places[2], places[3], "classes × 10")
ax.text(0.1, 0.75, "for each class $c$ and each IoU threshold $t$; with sizes: once for all boxes, once each for\n"
        "small (below $32^2$ pixels), medium, and large ones (above $96^2$)", fontsize=10, va="top")
plt.show()

# %% [markdown]
# **Sizes** need a rule, because a detection of a large cell must not count as false when only small ones are judged.
# COCO *ignores*: a true box outside the range counts neither as found nor as missed, and so does what is matched with it.
# Detections choose an ignored box only if no other fits. What matches nothing is ignored if its own size is outside the range.
# Here is the matching again, for all thresholds at once, with ignored boxes. Where two boxes fit equally well, COCO's
# code takes the later one.

# %%
def match_at(overlap, thresholds, ignored):
    """Index (t, n) of the true box that each detection takes at each threshold (t,), or -1.

    overlap (n, m): IoU of the detections, best first, with the true boxes, of which `ignored` (m,) are the last choice.
    """
    t, (n, m) = len(thresholds), overlap.shape
    taken, free = torch.full((t, n), -1), torch.ones(t, m, dtype=torch.bool)
    for k in range(n if m else 0):
        for group in (~ignored, ignored):
            fits = free & group & (overlap[k] >= thresholds[:, None]) & (taken[:, k, None] < 0)
            best = m - 1 - torch.where(fits, overlap[k], -1.0).flip(1).argmax(1)
            some = fits.any(1)
            taken[some, k] = best[some]
            free[some, best[some]] = False
    return taken


def judge(prediction, target, label, thresholds, low=0.0, high=1e10, limit=100):
    """One class in one photo: scores (n,), hits and ignored detections (t, n), and how many true boxes count.

    Only true boxes with an area from `low` to `high` count, and only the `limit` best detections are looked at.
    """
    boxes, scores, _ = (values[:limit] for values in by_score(prediction, label))
    boxes, truth = boxes.double(), target["boxes"][target["labels"] == label].double()
    outside, ignored = (~((area(some) >= low) & (area(some) <= high)) for some in (boxes, truth))
    taken = match_at(iou(boxes, truth), thresholds, ignored)
    of_ignored = torch.cat([ignored, ignored.new_zeros(1)])[taken]  # -1 finds the zero at the end
    return scores, (taken >= 0) & ~of_ignored, of_ignored | ((taken < 0) & outside), int((~ignored).sum())


# %% [markdown]
# The photos of a class are pooled, ignored detections leave the list, and each threshold gets its AP:

# %%
def pooled_ap(judged):
    """Average precision (t,) of one class from what `judge` says of each photo; nan where no true box counts."""
    scores, hits, ignored, counts = zip(*judged)
    order = torch.cat(scores).argsort(descending=True, stable=True)
    hits, ignored = torch.cat(hits, dim=1)[:, order], torch.cat(ignored, dim=1)[:, order]
    found = [hit[~skip].double().cumsum(0) for hit, skip in zip(hits, ignored)]
    aps = [average_precision(tp / torch.arange(1, len(tp) + 1), tp / sum(counts)) for tp in found]
    return torch.tensor(aps, dtype=torch.float64) if sum(counts) else torch.full((len(hits),), torch.nan).double()


def ap_table(predictions, targets, labels, thresholds, low=0.0, high=1e10):
    """Average precision (classes, t) for detections and targets of the same photos."""
    return torch.stack([pooled_ap([judge(*pair, label, thresholds, low, high) for pair in zip(predictions, targets)])
                        for label in labels])


# %%
THRESHOLDS = torch.from_numpy(np.linspace(0.5, 0.95, 10))
SIZES = {"map": (0, 1e10), "map_small": (0, 32**2), "map_medium": (32**2, 96**2), "map_large": (96**2, 1e10)}
tables = {name: ap_table(predictions["val"], targets["val"], kinds, THRESHOLDS, *limits)
          for name, limits in SIZES.items()}
ours = {name: table.nanmean().item() for name, table in tables.items()}
ours |= {"map_50": tables["map"][:, 0].nanmean().item(), "map_75": tables["map"][:, 5].nanmean().item()}
theirs = coco_map(predictions["val"], targets["val"], iou_thresholds=THRESHOLDS.tolist())
difference = max(abs(ours[name] - theirs[name].item()) for name in ours)
pd.DataFrame({"ours": ours, "torchmetrics": {name: theirs[name].item() for name in ours}}).round(6).T

# %% [markdown]
# Equal. A look at the APs before they are averaged tells more than their mean:

# %%
fig, ax = plt.subplots(figsize=(7.4, 3.6), layout="constrained")
for k, name in enumerate(CLASSES):
    ax.plot(THRESHOLDS, tables["map"][k], marker="os^"[k], linestyle=("-", "--", "-.")[k], color=f"C{k}", label=name)
ax.plot(THRESHOLDS, tables["map"].mean(0), color="black", lw=2.5, label="mean over classes")
ax.set(xlabel="IoU threshold $t$", ylabel="AP", ylim=(0, None))
ax.set_title(f"mAP {ours['map_50']:.2f} at IoU 0.5, {ours['map_75']:.2f} at 0.75, {ours['map']:.2f} over all ten")
ax.legend(fontsize=10)
plt.show()

# %% [markdown]
# > In our stored run mAP$_{50}$ is 0.55, and mAP$_{75}$ only 0.14. White cells are found best (0.82 at 0.5), red cells and
# > platelets far less often (0.43 and 0.38).
#
# The detector knows three window sizes for each class, so few of its boxes are tight. mAP$_{50}$ hides that, and the mean over
# thresholds shows it.
#
# ## 5. What mAP hides
#
# Take the detections of the validation photos and change them in ways that a user would notice at once. Six cases:
#
# - **squeezed scores**: every score $s$ becomes $0.9 + 0.1\,s$. The order stays.
# - **flooded**: each photo gets `FLOOD` random boxes as "red cells", with the score 0.
# - **moved**: every box lies `SHIFT` pixels further right.
# - **doubled**: every box is reported twice, the copies with half the score.
# - **platelets mended**: the platelets' detections are replaced by the truth.
# - **red cells mended**: as many red cells as there are platelets that were missed are added, exactly right.

# %%
def flooded(prediction, count, width, height, label, seed):
    """The detections, and `count` random boxes of a class with score 0."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.rand(count, 2, generator=generator).sort(dim=1).values * side for side in (width, height))
    more = {"boxes": torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1), "scores": torch.zeros(count),
            "labels": torch.full((count,), label)}
    return {key: torch.cat([values, more[key]]) for key, values in prediction.items()}


def with_truth(prediction, truth, label):
    """The detections, and boxes `truth` (n, 4) of a class with score 1."""
    more = {"boxes": truth, "scores": torch.ones(len(truth)), "labels": torch.full((len(truth),), label)}
    return {key: torch.cat([values, more[key]]) for key, values in prediction.items()}


# %% [markdown]
# "As many" needs the numbers first: which cells were missed?

# %%
val, val_targets = predictions["val"], targets["val"]
missed = {k: [verdicts(above(p, SCORE), t, [k])["missed"] for p, t in zip(val, val_targets)] for k in (1, 2)}
budget = min(sum(map(len, missed[1])), sum(map(len, missed[2])))
left = np.clip(budget - np.cumsum([0, *map(len, missed[2])]), 0, None)
others = [{key: values[p["labels"] != 1] for key, values in p.items()} for p in val]
cases = {
    "as it is": val,
    "squeezed scores": [{**p, "scores": 0.9 + 0.1 * p["scores"]} for p in val],
    "flooded": [flooded(p, FLOOD, WIDTH, photos.shape[2], 2, k) for k, p in enumerate(val)],
    "moved": [{**p, "boxes": p["boxes"] + torch.tensor([SHIFT, 0, SHIFT, 0])} for p in val],
    "doubled": [{"boxes": p["boxes"].repeat(2, 1), "scores": torch.cat([p["scores"], p["scores"] / 2]),
                 "labels": p["labels"].repeat(2)} for p in val],
    "platelets mended": [with_truth(p, t["boxes"][t["labels"] == 1], 1) for p, t in zip(others, val_targets)],
    "red cells mended": [with_truth(p, some[:count], 2) for p, some, count in zip(val, missed[2], left)]}

# %% [markdown]
# Beside mAP stand three numbers that a user feels: how many boxes a photo gets, and precision and recall of what
# scores at least `SCORE`, over all cells.

# %%
def used_at(predictions, targets, labels, score):
    """Boxes for a photo, and precision and recall over all cells of the detections from `score` on."""
    found = [verdicts(above(p, score), t, labels) for p, t in zip(predictions, targets)]
    hits, false, missed = (sum(len(one[kind]) for one in found) for kind in ("hit", "false", "missed"))
    return {"boxes": np.mean([len(p["scores"]) for p in predictions]), "precision": hits / max(hits + false, 1),
            "recall": hits / max(hits + missed, 1)}


# %%
hidden = {}
for name, some in cases.items():
    aps = ap_table(some, val_targets, kinds, THRESHOLDS)
    hidden[name] = {"mAP": aps.mean().item(), "mAP50": aps[:, 0].mean().item(),
                    **used_at(some, val_targets, kinds, SCORE)}
hidden = pd.DataFrame(hidden).T
hidden.round(3)

# %% [markdown]
# > In our stored run squeezed scores leave mAP at 0.219, while precision at the score 0.3 falls from 0.63 to 0.17. Flooding
# > doubles the number of boxes and costs nothing (a few random boxes even hit). Doubling every box costs 0.001, because
# > every copy scores lower than its original. Moving all boxes by 2 pixels costs 0.010.
# > The last two rows mend the same number of cells, and recall rises from 0.09 to 0.15 in both. But mended platelets lift mAP from
# > 0.219 to 0.519, mended red cells to 0.247.
#
# Platelets are 7 % of the cells, and a third of mAP: every class has the same weight. Whether that is right depends on what the
# detector is for.

# %%
fig, axes = plt.subplots(1, 2, figsize=(8.6, 3.6), layout="constrained")
for ax, name in zip(axes, ("as it is", "flooded")):
    show_verdicts(ax, photos[parts["val"][0]], verdicts(cases[name][0], val_targets[0], kinds))
    ax.set_title(f"{name}: {len(cases[name][0]['scores'])} boxes, mAP {hidden.loc[name, 'mAP']:.3f}", fontsize=10)
fig.suptitle("All boxes of one photo, whatever their score: two detectors with the same mAP")
show_as_jpeg(fig)

# %% [markdown]
# mAP judges an *ordered list*. It says how well a detector ranks, averaged over all possible thresholds. It does not say
# which threshold to use, whether a score is a probability, how many cells of a kind there are, or which mistakes are
# made. So report beside it: AP of each class, precision and recall at the threshold that will be used, and pictures.
#
# ## 6. How sure is the number?
#
# The test photos, once. A number from a few dozen photos would come out differently with other photos. The
# **bootstrap** estimates by how much: draw as many fields of view as there are, with repetition, compute mAP of these, and repeat.
# Fields and not photos, because photos of one field show the same cells. What `judge` said of a photo can be
# used again each time.

# %%
def bootstrap_maps(judged, groups, resamples, seed):
    """Mean AP (resamples, t) over classes for resampled groups of photos; judged[class][photo] as by `judge`."""
    rng, names = np.random.default_rng(seed), np.unique(groups)
    members = {name: np.flatnonzero(groups == name) for name in names}
    maps = []
    for _ in tqdm(range(resamples), desc="resamples", leave=False):
        rows = np.concatenate([members[name] for name in rng.choice(names, len(names))])
        maps.append(torch.stack([pooled_ap([one[row] for row in rows]) for one in judged]).nanmean(0))
    return torch.stack(maps)


# %%
judged = [[judge(p, t, k, THRESHOLDS) for p, t in zip(predictions["test"], targets["test"])] for k in kinds]
test_aps = torch.stack([pooled_ap(one) for one in judged])
maps = bootstrap_maps(judged, fields[parts["test"]].numpy(), RESAMPLES, seed=0)
test_map, test_map50 = test_aps.mean().item(), test_aps[:, 0].mean().item()
low, high = np.percentile(maps[:, 0], (2.5, 97.5))
copied = {"boxes": boxes[train[0]], "labels": labels[train[0]], "scores": torch.ones(len(labels[train[0]]))}
baseline = ap_table([copied] * len(parts["test"]), targets["test"], kinds, THRESHOLDS)[:, 0].mean().item()

# %% [markdown]
# The histogram shows the number for all resamples. Beside it stands a trivial baseline: the boxes of one training photo,
# copied onto every test photo.

# %%
fig, ax = plt.subplots(figsize=(7.4, 3.2), layout="constrained")
ax.hist(maps[:, 0], bins=25, color="C0", alpha=0.8)
ax.axvline(test_map50, color="black", lw=2, label=f"all {len(parts['test'])} test photos: {test_map50:.3f}")
for side in (low, high):
    ax.axvline(side, color="C2", ls="--", lw=2, label="95 % of the resamples" if side == low else None)
ax.set(xlabel="mAP$_{50}$ of a resample", ylabel="resamples")
ax.set_title(f"mAP$_{{50}}$ {test_map50:.3f}, 95 % interval from {low:.3f} to {high:.3f}")
ax.legend(fontsize=10)
plt.show()

# %% [markdown]
# > In our stored run mAP$_{50}$ is 0.562 on 91 test photos, and 95 % of the resamples lie between 0.516 and 0.616. Copied boxes
# > reach 0.008.
#
# So from two such numbers alone, detectors that differ by a few hundredths cannot be told apart. Compare them on the *same*
# resamples: much of the chance is common to both and cancels.
#
# ## 7. Check
#
# Our numbers equal torchmetrics' on the validation photos, for all classes, thresholds and sizes. On the test photos
# the detector beats the copied boxes by a clear margin.

# %%
assert difference < 1e-6, f"differs from torchmetrics by {difference:.1e}"
assert abs(hidden.loc["squeezed scores", "mAP"] - hidden.loc["as it is", "mAP"]) < 1e-9, "the order did not change"
assert test_map50 > baseline + REQUIRED_MAP50, f"mAP50 {test_map50:.3f}, copied boxes {baseline:.3f}"
print(f"largest difference to torchmetrics {difference:.0e}")
print(f"mAP50 on test photos {test_map50:.3f}, copied boxes {baseline:.3f}")

# %% tags=["results"]
results = {"test_map": test_map, "test_map50": test_map50, "test_map50_low": low, "test_map50_high": high,
           "copied_map50": baseline, "largest_difference_to_torchmetrics": difference}
results |= {f"test_ap50_{name}": test_aps[k, 0].item() for k, name in enumerate(CLASSES)}
results |= {f"{name.replace(' ', '_')}_{column}": hidden.loc[name, column] for name in hidden.index
            for column in ("mAP", "precision")}
pd.Series(results).map("{:.4g}".format).to_frame("value")

# %% [markdown]
# ## What to remember
#
# - A detection is a hit if it takes a free true box of its class with an IoU of at least $t$. The better score chooses first,
#   and a double is false.
# - AP is the area under the envelope of precision over recall. COCO reads it off at 101 recalls.
# - mAP averages AP over classes and, since COCO, over ten IoU thresholds. Always say which one you mean.
# - mAP depends only on the order of the scores. Flooding a photo with useless low scores costs nothing.
# - Few test photos give a wide interval. Resample whole groups to estimate it.
#
# ## Exercises
#
# **1.** There are four true boxes. The ranked list is hit, false, hit, hit, false, and the fourth box is never found.
# Compute AP by hand, then by `average_precision`.
#
# <details><summary>Answer</summary>
#
# Precision is 1, 1/2, 2/3, 3/4, 3/5 at recalls 1/4, 1/4, 2/4, 3/4, 3/4. The envelope is 1 up to recall 0.25 (26
# points), then 3/4 up to 0.75 (50 points), then 0 (25 points).
#
# ```python
# tp = torch.tensor([1.0, 1, 2, 3, 3], dtype=torch.float64)
# ap = average_precision(tp / torch.arange(1, 6), tp / 4)
# assert abs(ap - (26 * 1 + 50 * 0.75) / 101) < 1e-12
# ```
#
# </details>
#
# **2.** A colleague deletes all detections with a score below 0.3 and hopes for a better mAP. Can it rise?
#
# <details><summary>Answer</summary>
#
# No. Each detection at the end of the list can add recall, and the envelope never falls because of what comes later. It
# can only stay or fall. (A *user* may be better served all the same.)
#
# ```python
# cut = ap_table([above(p, 0.3) for p in val], val_targets, kinds, THRESHOLDS)
# assert (cut <= tables["map"] + 1e-12).all() and cut.mean() < tables["map"].mean()
# ```
#
# </details>
#
# **3.** What happens to the AP of the red cells at IoU 0.5 when a tenth of the true red cells were never annotated?
# Remove them from the targets.
#
# <details><summary>Answer</summary>
#
# Hits on the removed cells become false. Recall hardly changes, precision falls: the detector pays for
# the annotator. In your own data, look at the false detections with the highest scores first.
#
# ```python
# rng = np.random.default_rng(0)
# thinned = []
# for t in val_targets:
#     keep = torch.from_numpy((t["labels"].numpy() != 2) | (rng.random(len(t["labels"])) > 0.1))
#     thinned.append({key: values[keep] for key, values in t.items()})
# before, after = (average_precision(*precision_recall(val, some, 2)[1:]) for some in (val_targets, thinned))
# print(f"AP of the red cells {before:.3f}, with a tenth not annotated {after:.3f}")
# assert after < before
# ```
#
# </details>
#
# **Next:** [Selective search](Understanding_selectivesearch.ipynb) asks where objects could be, before anything is classified.
