"""fault.py NAME…: each fault in a copy of the worktree; the tests of the notebook, not its quick run."""
import sys, json, subprocess, os, importlib.util, time
W='.'; C='scratch/h10a/fc'
import shutil
C+='_'+sys.argv[1]
shutil.rmtree(C,ignore_errors=True)
shutil.copytree(W,C,ignore=shutil.ignore_patterns('.git','Chapter0[2-689]','Chapter1[1-8]','__pycache__'))
for name in sys.argv[1:]:
    spec=importlib.util.spec_from_file_location('f',f'scratch/h10a/faults_{name}.py'); f=importlib.util.module_from_spec(spec); spec.loader.exec_module(f)
    for label,old,new in f.FAULTS:
        nb=f'{C}/Chapter10/{name}.ipynb'; d=json.load(open(f'{W}/Chapter10/{name}.ipynb')); n=0
        for c in d['cells']:
            s=''.join(c['source'])
            if old in s: n+=s.count(old); c['source']=s.replace(old,new)
            if c['cell_type']=='code': c['outputs']=[]; c['execution_count']=None
        assert n>=1,(label,n)
        d['metadata']['shelf'].pop('measured',None)
        json.dump(d,open(nb,'w'),ensure_ascii=False,indent=1); t=time.time()
        p=subprocess.run([sys.executable,'-m','pytest','-q','-x','-n','0','-p','no:cacheprovider','--no-header','--tb=line',f'tests/chapter10/test_{name.lower()}.py'],cwd=C,capture_output=True,text=True)
        bad=[l for l in p.stdout.splitlines() if l.startswith(('FAILED','ERROR'))]
        print(f"{name}: {label} -> {bad[0][:170] if bad else 'NOTHING '+p.stdout[-80:]} [{time.time()-t:.0f} s]",flush=True)
