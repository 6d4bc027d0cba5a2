"""pytest fault_run.py -k action|3d|pose: each fault planted in a copy, the notebook's tests run in a forked child."""
import json, os, re, shutil, sys
from pathlib import Path
import cv2, matplotlib.pyplot, numpy, pandas, pytest, scipy.ndimage, scipy.stats, shapely.geometry, torch, hypothesis, nbformat, pycocotools.cocoeval, torchvision  # noqa
H = Path('scratch/h10b'); W = Path('.'); C = H/'fw'
src = (H/'faults.py').read_text()
ns = {}
block = src[src.index('FAULTS = {'):src.index('}[which]')+1]
exec(block, ns); F = ns['FAULTS']; F['pose'] = json.loads((H/'pose_faults.json').read_text())
NB = {'action': 'action_recognition', '3d': '3D_object_detection', 'pose': 'Human_pose_detection'}
T = {'action': 'test_action_recognition', '3d': 'test_3d_object_detection', 'pose': 'test_human_pose_detection'}
if not os.environ.get('FW_READY'):
    if C.exists(): shutil.rmtree(C)
    shutil.copytree(W, C, ignore=shutil.ignore_patterns('.git', 'Chapter0*', 'Chapter14', 'Chapter15', 'Chapter17', 'Chapter18', '__pycache__'))
    for f in (C/'tests'/'quick').glob('*.toml'):
        if f.stem != 'Chapter10': f.unlink()
    os.environ['FW_READY'] = '1'
CASES = [(w, *f) for w in F for f in F[w] if not f[3]]
@pytest.mark.parametrize('which,name,a,b,quick', CASES, ids=[f'{c[0]}-{c[1]}' for c in CASES])
def test_fault(which, name, a, b, quick):
    clean = json.loads((W/'Chapter10'/f'{NB[which]}.ipynb').read_text()); n = 0
    for c in clean['cells']:
        s = ''.join(c['source'])
        if c['cell_type'] == 'code' and a in s: c['source'] = s.replace(a, b); n += 1
    assert n, 'NOT FOUND'
    (C/'Chapter10'/f'{NB[which]}.ipynb').write_text(json.dumps(clean))
    out = C/'out.txt'
    pid = os.fork()
    if pid == 0:
        fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC); os.dup2(fd, 1); os.dup2(fd, 2)
        os.chdir(C); sys.path.insert(0, str(C)); torch.set_num_threads(1)
        for m in [m for m in sys.modules if m.startswith('tests')]: del sys.modules[m]
        try: rc = int(pytest.main([f'tests/chapter10/{T[which]}.py', '-n', '0', '-x', '-q', '--no-header', '-p', 'no:cacheprovider', '--tb=line', '--rootdir', str(C), '-c', str(C/'pyproject.toml')]))
        except BaseException as e: print(repr(e)); rc = 99
        sys.stdout.flush(); os._exit(rc)
    rc = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    text = out.read_text()
    how = re.findall(r'^FAILED \S+::(\S+)|^ERROR (\S+)', text, re.M)
    (H/'fault_results.txt').open('a').write(f"{which} | {name} | rc {rc} | {how[:1]} {text[-300:] if rc not in (0, 1) else ''}\n")
    assert rc == 1 and how, (rc, text[-400:])
