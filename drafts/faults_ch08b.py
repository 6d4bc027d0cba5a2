"""Plant one fault at a time in a copy of the worktree; run that notebook's tests (and, where asked, its quick run)."""
import os, shutil, subprocess, sys, time, json
from pathlib import Path
src, dst = Path("."), Path(f"drafts/faulty_{sys.argv[1]}")
shutil.rmtree(dst, ignore_errors=True)
shutil.copytree(src, dst, ignore=shutil.ignore_patterns(".git", "executed", "__pycache__"), symlinks=True)
F = {
"Training_SSD": [
 ("x and y swapped", "center, shapes = torch.stack([x, y], dim=2)", "center, shapes = torch.stack([y, x], dim=2)", 0),
 ("objects without a good box are background", "    m[iou.argmax(dim=1)] = torch.arange(len(boxes), device=m.device)\n", "", 0),
 ("hard negatives all kept", "(rank < ratio * positive.sum(dim=1, keepdim=True))", "(rank >= 0)", 0),
 ("easy negatives", "argsort(dim=1, descending=True).argsort(dim=1)", "argsort(dim=1).argsort(dim=1)", 0),
 ("background as a class", "scores, label = p[place, label], label + 1", "scores, label = p[place, label], label", 0),
 ("boxes not flipped", "w - boxes[:, 2], boxes[:, 1], w - boxes[:, 0]", "boxes[:, 0], boxes[:, 1], boxes[:, 2]", 0),
 ("NMS across classes", "batched_nms(boxes[place], scores, label, overlap)", "batched_nms(boxes[place], scores, torch.zeros_like(label), overlap)", 0),
 ("loss over photos, not over boxes", "count = P.sum().clamp(min=1)", "count = len(P)", 0),
 ("deviations not used", "weights=(10.0, 10.0, 5.0, 5.0))\n\n\ndef", "weights=(1.0, 1.0, 1.0, 1.0))\n\n\ndef", 0),
 ("trained on other photos' boxes", 'train_photos, shapes = photos[parts["train"]]', 'train_photos, shapes = photos[: len(parts["train"])]', 0),
],
"Training_YOLO_v8": [
 ("classes from 1", 'f"{label - 1} {x', 'f"{label} {x', 0),
 ("xyxy written", 'box_convert(boxes, "xyxy", "cxcywh") / torch', 'boxes / torch', 0),
 ("val is train", '**{part: f"images/{part}" for part in parts}', '**{part: "images/train" for part in parts}', 0),
 ("DFL weights swapped", "-(low + 1 - y) * at_low - (y - low) * at_high", "-(y - low) * at_low - (low + 1 - y) * at_high", 0),
 ("bins from 1", "torch.arange(bins, dtype=z.dtype)", "torch.arange(1, bins + 1, dtype=z.dtype)", 0),
 ("no half", "(torch.arange(n) + 0.5 for", "(torch.arange(n) + 0.0 for", 0),
 ("target changed in place", "y = y.clamp(0,", "y = y.clamp_(0,", 0),
 ("fields split", "split_groups(fields, VALIDATION", "split_groups(torch.arange(len(fields)), VALIDATION", 0),
],
"Training_Faster_RCNN": [
 ("schedule always moves", "if scaler.get_scale() >= before:", "if True:", 0),
 ("update before step", "    scaler.step(optimizer)\n    scaler.update()\n", "    scaler.update()\n    scaler.step(optimizer)\n", 0),
 ("anchor order", "permute(2, 3, 0, 1).reshape(-1, numbers)", "permute(0, 2, 3, 1).reshape(-1, numbers)", 0),
 ("no NMS", "boxes[ops.nms(boxes, scores, overlap)[:after]]", "boxes[:after]", 0),
 ("box loss per positive", "beta=1 / 9, reduction=\"sum\") / S.sum()", "beta=1 / 9, reduction=\"sum\") / P.sum()", 0),
 ("unmatched truths not counted", "return prediction[\"scores\"][rows], torch.stack(hits, dim=1), len(truth)", "return prediction[\"scores\"][rows], torch.stack(hits, dim=1), int(hits[0].sum())", 0),
 ("taken twice", "            overlap[:, best] = -1\n", "", 0),
 ("no envelope", "precision.flip(0).cummax(dim=0).values.flip(0)", "precision", 0),
 ("moves of class 0", "torch.arange(len(c)), c]", "torch.arange(len(c)), 0]", 0),
 ("photos drawn without replacement", "torch.randint(n, (n,), generator=generator).tolist()) for _", "torch.randperm(n, generator=generator).tolist()) for _", 0),
]}

os.chdir(dst); sys.path.insert(0, str(dst)); os.environ["OMP_NUM_THREADS"] = "1"
import contextlib, io
import torch, torchvision, hypothesis, pytest, torchmetrics.detection, nbformat  # the children have them at once
if sys.argv[1] == "Training_YOLO_v8": import ultralytics
torch.set_num_threads(1)
nb = sys.argv[1]; skip = int(sys.argv[2]) if len(sys.argv) > 2 and sys.argv[2].isdigit() else 0
path = dst / f"Chapter08/{nb}.ipynb"; good = path.read_text()
for name, old, new, quick in F[nb][skip:]:
    d = json.loads(good); hit = 0
    for c in d["cells"]:
        if c["cell_type"] == "code":
            t = "".join(c["source"]); hit += t.count(old); c["source"] = t.replace(old, new); c["outputs"] = []
    if not hit: print(nb, "|", name, "| NOT PLANTED", flush=True); continue
    path.write_text(json.dumps(d, ensure_ascii=False)); t0 = time.time()
    pid = os.fork()
    if not pid:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            rc = pytest.main(["-n", "0", "-q", "-x", "-p", "no:cacheprovider", f"tests/chapter08/test_{nb.lower()}.py", "tests/chapter08/test_same_photos.py"])
        line = [x for x in out.getvalue().splitlines() if x.startswith(("FAILED", "ERROR"))]
        print(nb, "|", name, "|", "caught" if rc else "MISSED", "|", (line or [out.getvalue()[-200:]])[0][:130], f"{time.time()-t0:.0f}s", flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
path.write_text(good)
