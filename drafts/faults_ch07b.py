"""faults.py NOTEBOOK: plant each fault in a copy of the tree; run the notebook's tests, and where these pass, the notebook (quick)."""
import json, shutil, subprocess, sys, time
from pathlib import Path
SRC=Path('.'); DST=Path('/tmp/ch07b_faults')
F={
'Calculating_intersection_over_union':('calculating_intersection_over_union',[
 ('no clip at zero','(high - low).clamp(min=0).prod(dim=2)','(high - low).prod(dim=2)'),
 ('xywh read as xyxy in area','(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])','boxes[:, 2] * boxes[:, 3]'),
 ('GIoU term of the wrong sign','iou_loss(a, b, eps) + (C - union) / (C + eps)','iou_loss(a, b, eps) - (C - union) / (C + eps)'),
 ('alpha not a constant','    with torch.no_grad():\n        alpha = v / (iou_loss(a, b, eps) + v + eps)','    alpha = v / (iou_loss(a, b, eps) + v + eps)'),
 ('diagonal not squared','hull_sides(a, b).square().sum(dim=1) + eps','hull_sides(a, b).sum(dim=1) + eps'),
 ('part by the last step','touching = found[0] > 0','touching = found[-1] > 0'),
 ('rate never decays','        schedule.step()\n        path','        path'),
 ('only one axis clipped','shared = (high - low).relu().prod(dim=1)','shared = (high - low)[:, 0].relu() * (high - low)[:, 1]'),
]),
'Non_max_suppression':('non_max_suppression',[
 ('threshold itself deleted','waiting[~(overlap > threshold)]','waiting[~(overlap >= threshold)]'),
 ('worst first','waiting, keep = scores.argsort(descending=True, stable=True), []','waiting, keep = scores.argsort(stable=True), []'),
 ('classes shifted too little','D = boxes.max() - boxes.min() + 1 if len(boxes) else 0','D = boxes.max() if len(boxes) else 0'),
 ('IoU not squared in soft-NMS','torch.exp(-(overlap**2) / sigma)','torch.exp(-overlap / sigma)'),
 ('given scores changed','scores, waiting, keep = scores.clone(), torch.arange','scores, waiting, keep = scores, torch.arange'),
 ('chosen on test photos','for one in raw["val"]], targets["val"], kinds)\n                                 for value','for one in raw["test"]], targets["test"], kinds)\n                                 for value'),
 ('old scores kept after soft-NMS','return {"boxes": found["boxes"][keep], "scores": scores, "labels"','return {"boxes": found["boxes"][keep], "scores": found["scores"][keep], "labels"'),
 ('NMS across classes in place of by class','keep = greedy_nms(apart_by_class(found["boxes"], found["labels"]), found["scores"], threshold)','keep = greedy_nms(found["boxes"], found["scores"], threshold)'),
]),
'Mean_average_precision':('mean_average_precision',[
 ('a true box taken twice','            overlap[:, best] = -1\n',''),
 ('recall of the matched ones only','        total += len(truth)\n','        total += int((hits[-1]).sum())\n'),
 ('envelope looks back','precision.flip(0).cummax(dim=0).values.flip(0)','precision.cummax(dim=0).values'),
 ('hits on ignored boxes count','(taken >= 0) & ~of_ignored, of_ignored |','(taken >= 0), of_ignored |'),
 ('all classes in one','boxes, scores, _ = (values[:limit] for values in by_score(prediction, label))','boxes, scores, _ = (values[:limit] for values in by_score(prediction))'),
 ('photos resampled, not fields','fields[parts["test"]].numpy(), RESAMPLES','np.arange(len(parts["test"])), RESAMPLES'),
 ('validation predictions judged on test truth','for p, t in zip(predictions["test"], targets["test"])] for k in kinds]','for p, t in zip(predictions["val"], targets["test"])] for k in kinds]'),
 ('scores sorted within photos only','order = torch.cat(scores).argsort(descending=True, stable=True)','order = torch.arange(len(torch.cat(scores)))'),
]),
'Understanding_selectivesearch':('understanding_selectivesearch',[
 ('four neighbors','    sides = ((number[:, :-1], number[:, 1:]), (number[:-1], number[1:]), (number[:-1, :-1], number[1:, 1:]),\n             (number[1:, :-1], number[:-1, 1:]))','    sides = ((number[:, :-1], number[:, 1:]), (number[:-1], number[1:]))'),
 ('Int never updated','parent[b], size[a], inside[a] = a, size[a] + size[b], w','parent[b], size[a] = a, size[a] + size[b]'),
 ('fill of the wrong sign','"fill": 1 - (around - r) / photo','"fill": 1 + (around - r) / photo'),
 ('histograms not weighted','(size[i] * regions[key][i] + size[j] * regions[key][j]) / size[t]','(regions[key][i] + regions[key][j]) / 2'),
 ('x and y swapped','[[x.start, y.start, x.stop, y.stop] for y, x in slices]','[[y.start, x.start, y.stop, x.stop] for y, x in slices]'),
 ('worst rank first','[v.argsort()]','[v.argsort()[::-1]]'),
 ('no running best','iou(truth, proposals).cummax(dim=1).values','iou(truth, proposals)'),
 ('test photos from training','parts["test"][:TEST_PHOTOS]','parts["train"][:TEST_PHOTOS]'),
])}
def main(name, only=None):
    test,faults=F[name]
    if DST.exists(): shutil.rmtree(DST)
    shutil.copytree(SRC,DST,ignore=shutil.ignore_patterns('.git','executed','__pycache__'))
    nbp=DST/'Chapter07'/f'{name}.ipynb'; good=nbp.read_text(); py='python'
    tests=[py,'-m','pytest',f'tests/chapter07/test_{test}.py','tests/chapter07/test_splits.py','-n','0','-q','-x','--no-header','-p','no:cacheprovider']
    r=subprocess.run(tests,cwd=DST,capture_output=True,text=True)
    if r.returncode: print('the tests fail without a fault:',r.stdout[-600:],r.stderr[-600:]); return
    for title,a,b in faults:
        nb=json.loads(good); n=0
        for c in nb['cells']:
            if c['cell_type']!='code': continue
            s=''.join(c['source'])
            if a in s: s=s.replace(a,b); n+=1; c['source']=s
        if n!=1: print('??',title,n); continue
        nbp.write_text(json.dumps(nb)); t=time.time()
        r=subprocess.run(tests,cwd=DST,capture_output=True,text=True)
        assert r.returncode in (0,1), r.stdout[-500:]+r.stderr[-500:]
        by='tests: '+next((l for l in r.stdout.splitlines() if l.startswith(('FAILED','ERROR'))),'?')[:120] if r.returncode else ''
        if not by:
            r=subprocess.run([py,'-m','pytest',f'Chapter07/{name}.ipynb','-n','0','-q','--no-header','-p','no:cacheprovider'],cwd=DST,capture_output=True,text=True)
            by='notebook: '+next((l for l in r.stdout.splitlines() if 'Error' in l),'?')[:150] if r.returncode else 'NOT CAUGHT'
        print(f'{title}: {by} ({time.time()-t:.0f} s)',flush=True)
    nbp.write_text(good)
for name in sys.argv[1:]: print('==',name,flush=True); main(name)
shutil.rmtree(DST,ignore_errors=True)
