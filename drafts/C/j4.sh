cd trees/C; PY="python -m pytest -n 0 -q -p no:cacheprovider"; L=scratch/C/log
$PY --tell scratch/C/told Chapter08 Chapter07 Chapter09 > $L/ch08_07_09.txt 2>&1
$PY --tell scratch/C/told Chapter05 > $L/ch05.txt 2>&1
