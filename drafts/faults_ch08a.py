"""faults.py components|yolo: plants one fault at a time in a copy of the worktree, runs the tests, then the quick notebook; says what caught it."""
import subprocess, sys, shutil, json, os
from pathlib import Path
W=Path("."); M=Path("drafts/mut")
SETS={"components":("Components_of_modern_object_detection","test_components_of_modern_object_detection",[
 ("anchors with x and y swapped","torch.stack([x, y, x, y], dim=2)","torch.stack([y, x, y, x], dim=2)"),
 ("ratio is width / height","(s / r.sqrt()).flatten(), (s * r.sqrt()).flatten()","(s * r.sqrt()).flatten(), (s / r.sqrt()).flatten()"),
 ("rescue over the wrong axis","iou.max(dim=1, keepdim=True)","iou.max(dim=0, keepdim=True)"),
 ("background labelled as left out","matched[best < low] = -1","matched[best < low] = -2"),
 ("box loss over positives only",'reduction=\\"sum\\") / len(chosen)','reduction=\\"sum\\") / max(len(P), 1)'),
 ("level from the area","torch.log2(size / 224)","torch.log2(size**2 / 224**2)"),
 ("FCOS: the largest box wins","torch.where(fits, area, torch.inf).min(dim=1)","torch.where(fits, -area, torch.inf).min(dim=1)"),
 ("sign of GIoU","- 2 * generalized_box_iou","+ 2 * generalized_box_iou"),
 ("greedy in place of Hungarian","for _ in range(new):","for _ in range(0):"),
 ("boxes xyxy read as centers",'[box_convert(some, \\"xyxy\\", \\"cxcywh\\") for some in (boxes, predicted)]','[some for some in (boxes, predicted)]'),
]),"yolo":("Working_details_of_YOLO","test_working_details_of_yolo",[
 ("row and column exchanged in encode","target[anchor, c[:, 1], c[:, 0]]","target[anchor, c[:, 0], c[:, 1]]"),
 ("grid with x and y swapped in decode",'indexing=\\"xy\\"','indexing=\\"ij\\"'),
 ("no sigmoid in the loss","(said[:, :2].sigmoid() - asked[:, :2])","(said[:, :2] - asked[:, :2])"),
 ("background counted everywhere","F.binary_cross_entropy_with_logits(outputs[~mine][:, 4], targets[~mine][:, 4]","F.binary_cross_entropy_with_logits(outputs[..., 4], targets[..., 4]"),
 ("log of anchor over size","(size / anchors[anchor]).log()","(anchors[anchor] / size).log()"),
 ("NMS across classes","batched_nms(one[\\\"boxes\\\"], one[\\\"scores\\\"], one[\\\"labels\\\"], overlap)","batched_nms(one[\\\"boxes\\\"], one[\\\"scores\\\"], one[\\\"labels\\\"] * 0, overlap)"),
 ("score without objectness","outputs[..., 4:5].sigmoid() * outputs[..., 5:].softmax(dim=-1)","outputs[..., 5:].softmax(dim=-1)"),
 ("evaluated in training mode","    model.eval()\\n\",\n    \"    found = []","    found = []"),
 ("outputs in the wrong order","unflatten(1, (len(self.anchors), -1)).movedim(2, -1)","unflatten(1, (-1, len(self.anchors))).movedim(1, -1)"),
 ("no training","        optimizer.step()\\n\",\n    \"        schedule.step()","        schedule.step()"),
])}
name,test,faults=SETS[sys.argv[1]]
only=sys.argv[2:]
subprocess.run(["rsync","-a","--delete","--exclude=.git",f"{W}/",f"{M}/"]) if shutil.which("rsync") else (shutil.rmtree(M,ignore_errors=True),shutil.copytree(W,M,ignore=shutil.ignore_patterns(".git")))
nb=M/"Chapter08"/f"{name}.ipynb"; good=nb.read_text()
py="python"
for title,a,b in faults:
    if only and not any(o in title for o in only): continue
    n=good.count(a)
    if n!=1: print(f"?? {title}: {n} places"); continue
    nb.write_text(good.replace(a,b))
    caught="NOT CAUGHT"
    r=subprocess.run([py,"-m","pytest",f"tests/chapter08/{test}.py","-n","0","-q","-x","--no-header","-p","no:cacheprovider"],cwd=M,capture_output=True,text=True,timeout=120)
    if r.returncode: caught="tests: "+next((l for l in r.stdout.splitlines() if l.startswith(("FAILED","ERROR"))),r.stdout[-200:]).split("::")[-1][:90]
    else:
        r=subprocess.run([py,"-m","pytest",f"Chapter08/{name}.ipynb","-n","0","-q","-x","--no-header","-p","no:cacheprovider"],cwd=M,capture_output=True,text=True,timeout=200)
        if r.returncode: caught="notebook: "+next((l for l in r.stdout.splitlines() if l.startswith(("FAILED","ERROR"))),r.stdout[-200:])[:90]
    print(f"{title}: {caught}",flush=True)
nb.write_text(good)
