"""judge.py MUTDIR: by place and kind: own checks of the notebook, rules, records"""
import json, sys
from pathlib import Path
from collections import Counter
sys.path.insert(0,'.')
from tests.checks import records, watched
from tests.notebooks import read, ROOT
tot=Counter(); how_=Counter(); kinds=Counter(); kgot=Counter(); missed=[]
for p in sorted(Path(sys.argv[1]).glob('*.json')):
    name=p.stem.replace('__','/'); d=json.loads(p.read_text())
    if not d['mutants']: continue
    nb=read(ROOT/name); ex=watched.excuses(nb)
    rec=json.loads(json.dumps(records.make(d['sound']|{'code':''})))
    print(name,'sound:',records.differences(rec,d['sound'],'steps' in ex), watched.broken_rules(name,nb,d['sound']))
    for m in d['mutants']:
        how=None
        if m['failed']: how='own'
        elif watched.broken_rules(name,nb,m['told']): how='rule'
        elif records.differences(rec,m['told'],'steps' in ex): how='record'
        k=m['place']; tot[k]+=1; kinds[k,m['kind']]+=1; how_[k,how]+=1
        if how: kgot[k,m['kind']]+=1
        else: missed.append((name,m))
for k in tot: print(f'{k:10} planted {tot[k]:3}', {h:how_[k,h] for h in ('own','rule','record',None)})
for kk in sorted(kinds): print('   ',*kk,kinds[kk],kgot[kk])
for n,m in missed: print('MISSED',n,m['cell'],m['place'],m['kind'],m['text'])
