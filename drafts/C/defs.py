"""defs.py: which function faults that are not caught otherwise do the tests of definitions catch? writes defs.json"""
import json, os, sys, subprocess, re, shutil, time
from pathlib import Path
S = Path('scratch/C'); TREE = S / 'tree'
MUT = Path(os.environ.get('MUT_OUT', S / 'mut'))
out = S / 'defs.json'
found = json.loads(out.read_text()) if out.exists() else {}
todo = []
for p in sorted(MUT.glob('*.json')):
    for m in json.loads(p.read_text())['mutants']:
        key = f"{m['name']}|{m['cell']}|{m['text']}"
        if m['place'] == 'function' and not m['failed'] and key not in found: todo.append((key, m))
print(len(todo), 'to do', flush=True)
os.chdir(TREE); sys.path.insert(0, str(TREE))
import torch, torchvision, pandas, sklearn, scipy, matplotlib.pyplot, nbformat, pytest, torchmetrics
torch.set_num_threads(1)
start = time.time()
for key, m in todo:
    if time.time() - start > float(sys.argv[1]): break
    path = TREE / m['name']; keep = path.read_bytes()
    nb = nbformat.read(path, 4); code = [c for c in nb.cells if c.cell_type == 'code']
    code[m['cell'] - 1].source = m['source']; nbformat.write(nb, path)
    stem = path.stem
    chapter = TREE / 'tests' / ('chapter' + m['name'][7:9])
    files = [str(f.relative_to(TREE)) for f in sorted(chapter.glob('test_*.py')) if stem in f.read_text()]
    res = {}
    for what, args in (('defs', files), ('conventions', ['tests/test_conventions.py', '-k', stem]), ('contract', ['tests/test_contract.py', '-k', f'{stem} or uses'])):
        if not args: continue
        pid = os.fork()
        if pid == 0:
            n = os.open(f'scratch/C/log/defs_last_{what}.txt', os.O_WRONLY | os.O_CREAT | os.O_TRUNC); os.dup2(n, 1); os.dup2(n, 2)
            rc = pytest.main(['-n', '0', '-q', '-x', '-p', 'no:cacheprovider', '-p', 'no:randomly', '--tb=line', *args])
            os._exit(int(rc))
        t = time.time()
        _, st = os.waitpid(pid, 0); res[what] = [os.waitstatus_to_exitcode(st), round(time.time() - t, 1)]
        if res[what][0] == 1: break
    path.write_bytes(keep)
    found[key] = res; out.write_text(json.dumps(found))
    print(key[:150], res, flush=True)
