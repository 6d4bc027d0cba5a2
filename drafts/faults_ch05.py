"""Plant faults on a copy of the worktree, one at a time; which tests fail."""
import json, os, shutil, subprocess, sys, time
W="."; C="drafts/copy"
subprocess.run(["rsync","-a","--delete","--exclude",".git","--exclude","executed","--exclude",".ruff_cache",W+"/",C+"/"],check=True)
R="Implementing_ResNet18_for_image_classification"; V="Implementing_VGG16_for_image_classification"; K="Facial_keypoints_detection"; A="age_gender_prediction"
NET="-k","not torchvisions_in_logits and not comparison_sees and not whole_resnet"
F=[
("frozen layer not frozen (VGG: requires_grad left on)",V,"self.trunk = trunk.requires_grad_(False)","self.trunk = trunk",()),
("batch norm of the frozen trunk moves (VGG: Frozen.train)",V,"return super().train(False)","return super().train(mode)",()),
("frozen layer not frozen (ResNet: head trained on the trunk itself, no copy)",R,"OrderedDict(trunk=copy.deepcopy(trunk), head","OrderedDict(trunk=trunk, head",NET),
("batch norm of the frozen trunk moves (ResNet: features in training mode)",R,"    trunk.eval()\n    return torch.cat([trunk","    trunk.train()\n    return torch.cat([trunk",NET),
("BGR from the loader",R,"return torch.stack(images).to(device), torch.tensor(labels, device=device), torch.tensor(species","return torch.stack(images).flip(1).to(device), torch.tensor(labels, device=device), torch.tensor(species",NET),
("BGR means and deviations",R,"Rescale(scale.mean, scale.std), trunk","Rescale(scale.mean[::-1], scale.std[::-1]), trunk",NET),
("people on both sides",K,"names = np.unique(people)","people = np.arange(len(people))\n    names = np.unique(people)",()),
("heat map x and y swapped",K,"torch.stack([(p.sum(dim=2) * x).sum(dim=2), (p.sum(dim=3) * y).sum(dim=2)], dim=2)","torch.stack([(p.sum(dim=3) * y).sum(dim=2), (p.sum(dim=2) * x).sum(dim=2)], dim=2)",()),
("age bins off by one",A,"steps = (degrees / width + bins / 2).long().clamp(0, bins - 1)","steps = (degrees / width + bins / 2 + 1).long().clamp(0, bins - 1)",()),
("age bins off by one: ordinal targets",A,"(steps[:, None] > torch.arange(thresholds","(steps[:, None] >= torch.arange(thresholds",()),
("1 twins: the held-out places are dropped",R,"torch.isin(torch.arange(len(rows)), pairs[:, 1])","torch.isin(torch.arange(len(rows)), pairs[:, 0])",NET),
("2 statistics from the test photos",R,"    fresh_statistics(model, images)\n    breed","    fresh_statistics(model, data[\"test\"][0])\n    breed",NET),
("3 rate with the largest loss",R,"best = min(losses, key=losses.get)","best = max(losses, key=losses.get)",NET),
("4 rate by the training loss",R,"losses = {rate: evaluate(model, *val_data)[0]","losses = {rate: evaluate(model, *train_data)[0]",NET),
("5 species of the best breed in place of the sum",R,"group = sum_groups(logits.softmax(dim=1), species_of).argmax(dim=1) == species_of[labels]","group = species_of[logits.argmax(dim=1)] == species_of[labels]",NET),
("6 baseline from the test labels",R,"labels == train_labels.mode().values).float","labels == labels.mode().values).float",NET),
("7 slope over the natural logarithm",R,"np.polyfit(np.log2(amounts), accuracies, 1)[0]","np.polyfit(np.log(amounts), accuracies, 1)[0]",NET),
("8 crossing read off a linear axis",R,"return float(amounts[k] * (amounts[k] / amounts[max(k - 1, 0)]) ** (part - 1))","return float(amounts[k] + (amounts[k] - amounts[max(k - 1, 0)]) * (part - 1))",NET),
("9 measured only after the repair",R,"    running = 100 * evaluate(model, *data[\"test\"])[1]\n    fresh_statistics(model, images)","    fresh_statistics(model, images)\n    running = 100 * evaluate(model, *data[\"test\"])[1]",NET),
("10 old statistics not thrown away",R,"        norm.reset_running_stats()\n","",NET),
("11 stride in the second convolution of the block",R,"self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)\n        self.bn1 = nn.BatchNorm2d(channels)\n        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1","self.conv1 = nn.Conv2d(inputs, channels, 3, padding=1, bias=False)\n        self.bn1 = nn.BatchNorm2d(channels)\n        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1",("-k","torchvisions")),
("12 figure of the wrong column",R,'some.groupby("photos")["accuracy %"].agg','some.groupby("photos")["species %"].agg',NET),
("13 results from the wrong variable",R,None,None,NET),
]
env=dict(os.environ,OMP_NUM_THREADS="1",MCVP_CACHE=os.environ.get("MCVP_CACHE",os.path.expanduser("~/.cache/mcvp")))
env.pop("MCVP_CACHE")
a,b=(int(x) for x in sys.argv[1].split("-"))
for k,(name,book,old,new,opts) in list(enumerate(F))[a:b+1]:
    p=f"{C}/Chapter05/{book}.ipynb"; text=open(p).read(); nb=json.loads(text); hit=0
    for c in nb["cells"]:
        s="".join(c["source"])
        if c["cell_type"]!="code": continue
        if name.startswith("13"): pass
        elif old and old in s: s=s.replace(old,new,1); hit+=1
        c["source"]=s.splitlines(keepends=True)
    if name.startswith("13"):
        r=nb["metadata"]["shelf"]["measured"]["cpu"]["results"]; r["scratch_species_percent"]=r["scratch_breed_percent"]; hit=1
    assert hit==1,(name,hit)
    open(p,"w").write(json.dumps(nb,indent=1,ensure_ascii=False)+"\n")
    t=time.time()
    out=subprocess.run(["python","-m","pytest","-x","-q","-n","0","-p","no:cacheprovider",f"tests/chapter05/test_{book.lower()}.py",*opts],cwd=C,env=env,capture_output=True,text=True).stdout
    st=subprocess.run(["python","-m","tests.structure",*[f"Chapter05/{b}.ipynb" for b in (R,V,"Resnet_block_architecture")]],cwd=C,env=env,capture_output=True,text=True).stdout if "-s" in sys.argv else ""
    fails=[l for l in out.splitlines() if l.startswith(("FAILED","ERROR"))]
    print(f"{'CAUGHT' if fails else 'MISSED'}  {name}: {fails[0].split('::')[-1][:110] if fails else out.splitlines()[-1:]} {[l for l in st.splitlines() if 'differs' in l][:1]} ({time.time()-t:.0f} s)",flush=True)
    open(p,"w").write(text)
