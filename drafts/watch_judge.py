import json, sys, copy
from pathlib import Path
from collections import Counter
sys.path.insert(0,'.')
from tests.checks import records, watched
from tests.notebooks import read, ROOT
T=Path('drafts/told')
tot=Counter(); own=Counter(); got=Counter(); gen=Counter(); kinds=Counter(); kgot=Counter(); missed=[]; kown=Counter()
quiet='-q' in sys.argv
for p in sorted(Path(sys.argv[1]).glob('*.json')):
    name=p.stem.replace('__','/'); d=json.loads(p.read_text())
    if not d['mutants']: continue
    nb=read(ROOT/name); ex=watched.excuses(nb)
    runs=[d['sound']]+[json.loads((T/s/name).with_suffix('.json').read_text()) for s in '01' if (T/s/name).with_suffix('.json').exists()]
    for r in runs: r['environment']=runs[0]['environment']
    rec=json.loads(json.dumps(records.make(runs)))
    print(name, 'sound:', records.differences(rec,d['sound'])[:2], [t for t in d['sound']['findings'] if t[3][0] not in ex][:2], len(runs))
    for m in d['mutants']:
        told=m['told']; how=None; gh=False
        if m['failed']: how='own'
        else:
            told['environment']=runs[0]['environment']
            rules=[t for t in told['findings'] if t[3][0] not in ex]
            unused=set(ex)-{t[3][0] for t in told['findings']}
            diff=records.differences(rec,told)
            told2={**told,'environment':{**told['environment'],'arithmetic':'x'}}
            gh=bool(rules or records.differences(rec,told2))
            if rules: how='rule'
            elif unused or diff: how='record'
        k=m['place']; tot[k]+=1; kk=(k,m['kind']); kinds[kk]+=1
        if how=='own': own[k]+=1; kown[kk]+=1
        if how: got[k]+=1; kgot[kk]+=1
        if how=='own' or gh: gen[k]+=1
        if not how: missed.append((name,m))
for k in tot: print(f'{k:10} planted {tot[k]:3} before(own asserts) {own[k]:3} after {got[k]:3} on another processor {gen[k]:3}')
print('all', sum(tot.values()), sum(own.values()), sum(got.values()), sum(gen.values()))
for kk in sorted(kinds): print('   ', *kk, kinds[kk], kown[kk], kgot[kk])
for n,m in missed:
    print('MISSED', n, m['cell'], m['place'], m['kind'], m['text'])
