"""fault.py NAME: plants each fault of faults_NAME.py in a copy of the worktree; runs the tests of the notebook (forked), not its quick run."""
import sys, json, subprocess, os, importlib.util, time, shutil
W='trees/D1'; name=sys.argv[1]; C=f'scratch/D1/fc_{name}'
shutil.rmtree(C,ignore_errors=True)
shutil.copytree(W,C,ignore=shutil.ignore_patterns('.git','executed','Chapter0*','Chapter1[02-8]','__pycache__'))
for d in os.listdir(W):
    if d.startswith('Chapter') and d!='Chapter11': os.symlink(f'{W}/{d}',f'{C}/{d}')
spec=importlib.util.spec_from_file_location('f',f'scratch/D1/faults_{name}.py'); f=importlib.util.module_from_spec(spec); spec.loader.exec_module(f)
os.chdir(C); sys.path.insert(0,C)
import pytest, torch, sklearn, scipy.spatial, scipy.ndimage, matplotlib, pandas, torchvision, skimage.metrics, sklearn.manifold  # before the fork
torch.set_num_threads(1)
for label,old,new in f.FAULTS:
    nb=f'{C}/Chapter11/{f.NOTEBOOK}.ipynb'; d=json.load(open(f'{W}/Chapter11/{f.NOTEBOOK}.ipynb')); n=0
    for c in d['cells']:
        s=''.join(c['source'])
        if c['cell_type']=='code':
            if old in s: n+=s.count(old); c['source']=s.replace(old,new)
            c['outputs']=[]; c['execution_count']=None
    if n!=1: print("NOT PLANTED",label,n,flush=True); continue
    d['metadata']['shelf'].pop('measured',None)
    json.dump(d,open(nb,'w'),ensure_ascii=False,indent=1); t=time.time()
    out=f'{C}/out.txt'; pid=os.fork()
    if pid==0:
        fd=os.open(out,os.O_WRONLY|os.O_CREAT|os.O_TRUNC); os.dup2(fd,1); os.dup2(fd,2)
        os._exit(int(pytest.main(['-q','-x','-n','0','-p','no:cacheprovider','--no-header','--tb=line',f'tests/chapter11/test_{f.TEST}.py','tests/chapter11/test_common.py','-k',f'not Chapter11 or {f.NOTEBOOK}'])))
    os.waitpid(pid,0)
    bad=[l for l in open(out).read().splitlines() if l.startswith(('FAILED','ERROR'))]
    print(f"{label} -> {bad[0][:150] if bad else 'NOTHING '+open(out).read()[-80:]} [{time.time()-t:.0f} s]",flush=True)
