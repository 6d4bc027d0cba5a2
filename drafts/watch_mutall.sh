# mutants of the light notebooks given, until the time is up
end=$(( $(date +%s) + 580 )); out=$1; count=$2; seed=$3; shift 3
mkdir -p $out
echo "start $(date)"
for n in "$@"; do
  [ -e "$out/$(echo $n | sed 's|/|__|').json" ] && continue
  left=$(( end - $(date +%s) )); [ $left -lt 40 ] && break
  timeout $left python drafts/mutate.py $out $n $count $seed 2>&1 | grep -v "^tests.offline\|it/s" | tail -3
done
echo "end $(date)"
