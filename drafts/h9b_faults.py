"""faults.py SHORT [skip]: plant one fault at a time in a copy of the worktree; run that notebook's tests."""
import os, shutil, sys, time, json, io, contextlib
from pathlib import Path
src, dst = Path("."), Path(f"scratch/h9b/faulty_{sys.argv[1]}")
shutil.rmtree(dst, ignore_errors=True)
shutil.copytree(src, dst, ignore=shutil.ignore_patterns(".git", "executed", "__pycache__"), symlinks=True)
F = {
"IS": ("Instance_Segmentation", "test_instance_segmentation", [
 ("distance to the background", "labels[place] == k, 1))", "labels[place] > 0, 1))"),
 ("boundary against the background only", "[labels > 0, highest != lowest,", "[labels > 0, (highest > 0) != (lowest > 0),"),
 ("watershed of the wrong sign", "watershed(-height", "watershed(height"),
 ("blobs without a marker lost", "label(markers | bare)", "label(markers)"),
 ("boundary threshold inverted", "(y[1] < tau)", "(y[1] > tau)"),
 ("union counted double", "n_i + n_j - n_ij", "n_i + n_j"),
 ("true objects claimed twice", "                free[:, free[i].argmax()] = -1\n", ""),
 ("scores not sorted", "np.argsort(-scores, kind=\"stable\")", "np.argsort(scores, kind=\"stable\")"),
 ("masks not mirrored", "pair = [part.flip(axis) for part in pair]", "pair = [pair[0].flip(axis), pair[1]]"),
 ("soft mask not cut", "[number, 0] > threshold)", "[number, 0] > 0)"),
 ("boxes end at the last pixel", "    boxes[:, 2:] += 1  # from the last pixel to the edge behind it\n", ""),
 ("the unsure on top", "answer[\"scores\"].argsort().tolist()", "answer[\"scores\"].argsort(descending=True).tolist()"),
 ("merged and split exchanged", '"merged", np.where(within.sum(axis=0) > 1, "split", "missed")', '"split", np.where(within.sum(axis=0) > 1, "merged", "missed")'),
 ("groups torn", "lacking] += (groups == group).nonzero()[:, 0].tolist()", "lacking] += (groups == group).nonzero()[:1, 0].tolist()"),
 ("stained not inverted", "np.median(gray) > 0.5", "np.median(gray) < 0.5"),
 ("left columns for the middle", "left = (pixels.shape[1] - side) // 2", "left = 0"),
 ("100 detections at most", "[1, 100, 1000]", "[1, 10, 100]"),
]),
"EX": ("Exploring_Mask_R_CNN", "test_exploring_mask_r_cnn", [
 ("half a pixel lost in the paste", "(x - x0 + 0.5) * (m + 2) / (x1 - x0 + 1) - 0.5, (y", "(x - x0) * (m + 2) / (x1 - x0 + 1), (y"),
 ("no border around the mask", "(m + 2) / m\n", "1\n"),
 ("rows and columns exchanged", "F.pad(mask, (1, 1, 1, 1))[None], v, u)", "F.pad(mask, (1, 1, 1, 1))[None], u, v)"),
 ("weights of bilinear exchanged", "+ a * (1 - b) * f[:, below][:, :, j] + a * b", "+ a * b * f[:, below][:, :, j] + a * (1 - b)"),
 ("aligned by half a place", "x0, y0, x1, y1 = box * scale", "x0, y0, x1, y1 = box * scale - 0.5"),
 ("points at the borders of the bins", "(torch.arange(k * size) + 0.5)", "torch.arange(k * size)"),
 ("RoIPool with the stride as scale", "boxes, self.size, 1 / self.stride)", "boxes, self.size, self.stride)"),
 ("RoIPool for the boxes, too", "        model.roi_heads.mask_roi_pool = Q", "        model.roi_heads.box_roi_pool = QuantizedPool(7, stride)\n        model.roi_heads.mask_roi_pool = Q"),
 ("mask of the background", "heads.mask_head(cut))[:, 1:2]", "heads.mask_head(cut))[:, 0:1]"),
 ("soft masks in the mAP", "one[\"masks\"][:, 0] > 0.5}", "one[\"masks\"][:, 0] > 0}"),
 ("labels not mirrored", "pair = [part.flip(axis) for part in pair]", "pair = [pair[0].flip(axis), pair[1]]"),
 ("boxes end at the last pixel", "+ torch.tensor([0, 0, 1, 1])", ""),
 ("hook keeps the input", "seen.__setitem__(name, output)", "seen.__setitem__(name, inputs)"),
 ("IoU over the whole picture", "found | true).sum(dim=(1, 2))", "found | true).sum()"),
 ("the mask head is not trained", "AdamW(model.parameters()", "AdamW([p for n, p in model.named_parameters() if 'mask' not in n]"),
]),
"PM": ("predicting_multiple_instances_of_multiple_classes", "test_predicting_multiple_instances_of_multiple_classes", [
 ("instance id without its class", "(red == c) & (green == i) for c, i in pairs", "(green == i) for c, i in pairs"),
 ("numbers over all classes", "1 + sum(int(other == label) for other in labels[:k])", "1 + k"),
 ("runs row by row", "mask.T.ravel().astype(bool)", "mask.ravel().astype(bool)"),
 ("runs may begin with ones", "np.concatenate([[False], mask", "np.concatenate([mask.T.ravel()[:1].astype(bool), mask"),
 ("soft mask taken as mask", "answer[\"masks\"][:, 0] > threshold}", "answer[\"masks\"][:, 0] > 0}"),
 ("classes ignored in the AP", "answer[\"labels\"] == label, target", "answer[\"labels\"] > 0, target"),
 ("classes without objects count as zero", "        if total:\n            aps", "        if True:\n            aps"),
 ("confusion transposed", "table[0 if j is None else target[\"labels\"][j], answer[\"labels\"][row]] += 1", "table[answer[\"labels\"][row], 0 if j is None else target[\"labels\"][j]] += 1"),
 ("background counted", "minlength=classes + 1)[1:]", "minlength=classes + 1)[:-1]"),
 ("the unsure on top", "[answer[\"scores\"][rows].argsort(stable=True)]", "[answer[\"scores\"][rows].argsort(descending=True, stable=True)]"),
 ("hidden parts kept", "masks = [old & ~mask for old in masks] + [mask]", "masks = [old for old in masks] + [mask]"),
 ("labels from 0", "labels.append(label + 1)", "labels.append(label)"),
 ("polygon x and y exchanged", "np.stack([y, x], axis=1) - 0.5", "np.stack([x, y], axis=1) - 0.5"),
 ("polygon half a pixel off", "np.stack([y, x], axis=1) - 0.5", "np.stack([y, x], axis=1) + 0.5"),
 ("label maps resized bilinearly", "Image.Resampling.NEAREST", "Image.Resampling.BILINEAR"),
 ("crowds kept", " and not one[\"iscrowd\"]", ""),
])}
os.chdir(dst); sys.path.insert(0, str(dst)); os.environ["OMP_NUM_THREADS"] = "1"
import torch, torchvision, hypothesis, pytest, torchmetrics.detection, nbformat, pycocotools.cocoeval, skimage.segmentation, scipy.ndimage, matplotlib.pyplot, pandas
if sys.argv[1] == "PM": import datasets
torch.set_num_threads(1)
nb, test, faults = F[sys.argv[1]]; skip = int(sys.argv[2]) if len(sys.argv) > 2 else 0
path = dst / f"Chapter09/{nb}.ipynb"; good = path.read_text()
for name, old, new in faults[skip:]:
    d = json.loads(good); hit = 0
    for c in d["cells"]:
        if c["cell_type"] == "code":
            t = "".join(c["source"]); hit += t.count(old); c["source"] = t.replace(old, new); c["outputs"] = []
    if not hit: print(nb, "|", name, "| NOT PLANTED", flush=True); continue
    path.write_text(json.dumps(d, ensure_ascii=False)); t0 = time.time()
    r, w = os.pipe(); pid = os.fork()
    if not pid:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-W", "ignore", f"tests/chapter09/{test}.py", "-k", "not stored"])
        lines = [l for l in out.getvalue().splitlines() if l.startswith(("FAILED", "ERROR", "E  "))]
        os.write(w, (f"{'caught' if code else 'SURVIVED'} | " + (" ; ".join(lines[-1:]) or out.getvalue()[-200:])).encode()[:400]); os._exit(0)
    os.waitpid(pid, 0); os.close(w)
    print(nb, "|", name, "|", os.read(r, 1000).decode(), f"| {time.time()-t0:.0f} s", flush=True)
path.write_text(good)
