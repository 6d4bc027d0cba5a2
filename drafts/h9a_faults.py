import sys, json, shutil, subprocess, time, os
import pytest, torch, torchvision, torchmetrics, sklearn.metrics, scipy.stats, scipy.ndimage, hypothesis, pandas, matplotlib.pyplot, IPython.display, nbformat, torchvision.transforms.v2, torchmetrics.classification, torchvision.datasets, torchvision.models
os.environ["OMP_NUM_THREADS"]="1"; torch.set_num_threads(1)
which=sys.argv[1]; only=sys.argv[2:]
WT="."; CP="scratch/h9a/fcopy"
NB={"explore":"Exploring_the_U_Net_architecture","semantic":"Semantic_Segmentation_with_U_Net"}[which]
F={"explore":[
 ("kernel transposed","weight[:, :, i, j])","weight[:, :, min(j, weight.shape[2] - 1), min(i, weight.shape[3] - 1)])"),
 ("stride of the rows forgotten at the end","rows, columns = slice(i, i + stride * (h - 1) + 1, stride)","rows, columns = slice(i, i + h, 1)"),
 ("skip and below: condition inverted","kept[level] if self.skips else x, x]","x if self.skips else kept[level], x]"),
 ("skip after pooling order (level reversed)","kept[level] if self.skips else x, x]","x, kept[level] if self.skips else x]"),
 ("labels not mirrored","x, y = x.flip(-1), y.flip(-1)","x, y = x.flip(-1), y"),
 ("255 counts as answered","(answers == 1) & (labels != 255), labels == 1","answers == 1, labels == 1"),
 ("distance from background instead of border","band = (trimaps == 3).float()[:, None]\n    distances","band = (trimaps == 2).float()[:, None]\n    distances"),
 ("cut the other half","halves[half] = halves[half].mean","halves[half] = halves[1 - half].mean"),
 ("hook stays","handle.remove()\n    return answers","return answers"),
 ("phases of rows only","inner[..., i::2, j::2]","inner[..., i::2, i::2]"),
 ("receptive field: pooling doubles j first","r, j = r + j, 2 * j","r, j = r + 2 * j, 2 * j"),
 ("trains on the test photos","losses = train_unet(network, images, labels,","losses = train_unet(network, test_images, test_labels,"),
 ("results: gain far from the wrong variable",'"skip_gain_far_points": far.mean()','"skip_gain_far_points": gain.mean()'),
 ("results: without skips is with",'"iou_without_skips_percent": iou["without skips"]','"iou_without_skips_percent": iou["with skips"]'),
 ("both kinds with skips",'"without skips": {"skips": False}','"without skips": {"skips": True}'),
 ("twins stay","rows = without_twins(torch.arange(len(images)), pairs).to(device)","rows = torch.arange(len(images)).to(device)"),
 ],
"semantic":[
 ("Dice: unknown pixels claimed","p = logits.softmax(dim=1) * known","p = logits.softmax(dim=1)"),
 ("Dice: mean over batch too early","(part.sum(dim=(0, 2, 3))","(part.sum(dim=(2, 3))"),
 ("IoU: columns twice","n.sum(dim=0) + n.sum(dim=1)","n.sum(dim=0) + n.sum(dim=0)"),
 ("counts transposed","labels[known] * classes + answers[known]","answers[known] * classes + labels[known]"),
 ("cat and dog swapped","animal = (species + 1)[:, None, None]","animal = (2 - species)[:, None, None]"),
 ("trimap as picture in augmentation","tv_tensors.Mask(y))","tv_tensors.Image(y[:, None].to(torch.uint8)))"),
 ("trimap as plain tensor","tv_tensors.Mask(y))","y)"),
 ("boundary counts the border itself","return wide & (trimaps != 3)","return wide"),
 ("vote of the background too","totals = (p[:, 1:3] * animal[:, None])","totals = (p[:, 1:3])"),
 ("threshold chosen on the test photos","best_threshold(train_photos[0], train_photos[1])","best_threshold(images, trimaps)"),
 ("threshold: below and above swapped","(h.sum() - h.cumsum(0)) if above else h.cumsum(0)","h.cumsum(0) if above else (h.sum() - h.cumsum(0))"),
 ("gains not paired",'wide = runs.pivot(index="seed", columns="recipe", values=column)\n    return wide[name] - wide[other]','return pd.Series(runs[runs["recipe"] == name][column].to_numpy() - runs[runs["recipe"] == other][column].to_numpy())'),
 ("overconfidence: sign","100 * confidence[labels != 255].mean().item() - found","found"),
 ("recipes: pictured are the right ones","pictured = train_photos[0], bilinear,","pictured = train_photos[0], nearest,"),
 ("recipe's border forgotten",'class_labels(trimaps, species, recipe["border"])','class_labels(trimaps, species, "left out")'),
 ("results: color from the U-Net",'opponents.loc["color threshold", "mean IoU"],','opponents.loc["U-Net", "mean IoU"],'),
 ("results: dice gain from both",'"dice_gain_points": by_dice.mean()','"dice_gain_points": by_picture.mean()'),
 ("skip of the wrong stage","kept[level - 1], self.up[level](x)","kept[level - 1] * 0, self.up[level](x)"),
 ("ImageNet mean forgotten","x = ((x + 1) / 2 - self.mean) / self.std","x = (x - self.mean) / self.std"),
 ],}[which]
CP=CP+"_"+which
if True: 
    shutil.rmtree(CP,ignore_errors=True)
    shutil.copytree(WT,CP,ignore=shutil.ignore_patterns(".git","executed",".pytest_cache","__pycache__"))
else:
    shutil.rmtree(f"{CP}/tests/chapter09"); shutil.copytree(f"{WT}/tests/chapter09",f"{CP}/tests/chapter09"); shutil.copy(f"{WT}/tests/quick/Chapter09.toml",f"{CP}/tests/quick/Chapter09.toml")
os.chdir("/")
path=f"{CP}/Chapter09/{NB}.ipynb"; orig=open(f"{WT}/Chapter09/{NB}.ipynb").read()
test=f"tests/chapter09/test_{NB.lower()}.py"
only=[o for o in only if o!="--fresh"]
for k,(name,a,b) in enumerate(F):
    if only and str(k) not in only: continue
    nb=json.loads(orig); n=0
    for c in nb["cells"]:
        if c["cell_type"]!="code": continue
        s="".join(c["source"]) 
        if a in s: n+=s.count(a); c["source"]=s.replace(a,b)
    if not n: print(k,name,"NOT FOUND",flush=True); continue
    json.dump(nb,open(path,"w"))
    t=time.time()
    out=f"scratch/h9a/fault_out_{which}.txt"
    pid=os.fork()
    if pid==0:
        fd=os.open(out,os.O_WRONLY|os.O_CREAT|os.O_TRUNC); os.dup2(fd,1); os.dup2(fd,2)
        os.chdir(CP); sys.path.insert(0,CP); sys.argv=["pytest"]
        rc=pytest.main(["-q","-x","-n","0","-p","no:cacheprovider","--tb=line",test]); sys.stdout.flush(); os._exit(int(rc))
    _,st=os.waitpid(pid,0)
    class r: returncode=os.waitstatus_to_exitcode(st); stdout=open(out).read()
    how=None
    if r.returncode:
        how="test: "+next((l for l in r.stdout.splitlines()[::-1] if l.startswith("FAILED") or l.startswith("ERROR")),r.stdout[-200:])[:150]
    else:
        r=subprocess.run(["python","-m","pytest","-q","-x","-n","0","-p","no:cacheprovider","--tb=line",f"Chapter09/{NB}.ipynb"],cwd=CP,capture_output=True,text=True)
        if r.returncode: how="quick run: "+" ".join(l for l in r.stdout.splitlines() if "Error" in l or "FAILED" in l)[:250]
    print(k,n,name,"->",how or "NOT CAUGHT",f"{time.time()-t:.0f}s",flush=True)
    open(path,"w").write(orig)
