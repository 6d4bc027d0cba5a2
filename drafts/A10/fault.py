"""fault.py LIST.json [WHAT]: each fault [nb, name, old, new, how] planted in a copy; how: t tests, q quick run, tq tests then quick if not caught. One process, forked children."""
import json, os, re, shutil, sys, time
from pathlib import Path
import cv2, matplotlib.pyplot, numpy, pandas, pytest, scipy.ndimage, scipy.stats, torch, hypothesis, nbformat, pycocotools.cocoeval, torchvision, torchmetrics.detection, skimage.color  # noqa
H = Path('scratch/A10'); W = Path('trees/A10'); C = H/'fw'
if C.exists(): shutil.rmtree(C)
shutil.copytree(W, C, ignore=shutil.ignore_patterns('.git', 'Chapter0*', 'Chapter11','Chapter12','Chapter13','Chapter14','Chapter15','Chapter16','Chapter17','Chapter18','__pycache__'))
for f in (C/'tests/quick').glob('*.toml'):
    if f.stem != 'Chapter10': f.unlink()
only = sys.argv[2:] 
def run(args):
    out = C/'out.txt'; pid = os.fork()
    if pid == 0:
        fd = os.open(out, os.O_WRONLY|os.O_CREAT|os.O_TRUNC); os.dup2(fd,1); os.dup2(fd,2)
        os.chdir(C); sys.path.insert(0,str(C)); torch.set_num_threads(1)
        for m in [m for m in sys.modules if m.startswith('tests')]: del sys.modules[m]
        try: rc = int(pytest.main([*args,'-n','0','-x','-q','--no-header','-p','no:cacheprovider','--tb=short','--rootdir',str(C),'-c',str(C/'pyproject.toml')]))
        except BaseException as e: print(repr(e)); rc = 99
        sys.stdout.flush(); os._exit(rc)
    rc = os.waitstatus_to_exitcode(os.waitpid(pid,0)[1]); return rc, out.read_text()
for nb, name, a, b, how in json.loads(Path(sys.argv[1]).read_text()):
    if only and not any(o in nb or o in name for o in only): continue
    d = json.loads((W/'Chapter10'/f'{nb}.ipynb').read_text()); n = 0
    for c in d['cells']:
        s = ''.join(c['source'])
        if c['cell_type']=='code':
            if a in s: c['source'] = s.replace(a,b); n += 1
            c['outputs']=[]; c['execution_count']=None
    d['metadata'].get('shelf',{}).pop('measured',None)
    if not n: print('NOT FOUND',nb,name,flush=True); continue
    p = C/'Chapter10'/f'{nb}.ipynb'; p.write_text(json.dumps(d)); t=time.time(); got=''
    for step in how:
        arg = f'tests/chapter10/test_{nb.lower()}.py' if step=='t' else f'Chapter10/{nb}.ipynb'
        rc, text = run([arg])
        if rc == 1:
            m = re.findall(r'^(?:FAILED|ERROR) (\S+)', text, re.M); e = re.findall(r'^E  +(.*)|^(\w+Error.*)', text, re.M)
            got = f"{step}: {m[:1]} {e[:1]}"[:200]; break
        if rc != 0: got = f'rc {rc} {text[-200:]}'; break
    shutil.copy(W/'Chapter10'/f'{nb}.ipynb', p)
    print('caught' if got else 'MISSED', '|', nb, '|', name, '|', got, f'[{time.time()-t:.0f} s]', flush=True)
