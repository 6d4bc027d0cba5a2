rm -rf /tmp/E1copy; mkdir /tmp/E1copy; cd trees/E1; git archive HEAD | tar x -C /tmp/E1copy
export OMP_NUM_THREADS=1
for k in 2 3; do n=$([ $k = 3 ] && echo Face_generation_using_DCGAN || echo Face_generation_using_Conditional_GAN); t=$(echo $n | tr A-Z a-z); python scratch/E1/faults.py /tmp/E1copy Chapter12/$n.ipynb tests/chapter12/test_$t.py scratch/E1/f$k.json > scratch/E1/fl$k.log 2>&1; done
