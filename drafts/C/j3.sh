cd trees/C; PY="python -m pytest -n 0 -q -p no:cacheprovider"; L=scratch/C/log
$PY tests/test_watch.py tests/test_plugin.py -k "not test_plugin or watched" > $L/t4.txt 2>&1
python -m tests.checks -n 0 Chapter01/Chain_rule.ipynb $(python -c "
import subprocess
print('Chapter02/'+' Chapter02/'.join(x+'.ipynb' for x in 'Building_a_neural_network_using_PyTorch_on_a_toy_dataset Fetching_values_of_intermediate_layers Implementing_custom_loss_function Initializing_a_tensor Operations_on_tensors Sequential_method_to_build_a_neural_network Specifying_batch_size_while_training_a_model save_and_load_pytorch_model'.split()))") > $L/cli.txt 2>&1
timeout 270 python scratch/C/mut.py 5 1 $(ls Chapter03/*.ipynb | grep -v "Varying_loss\|Varying_batch\|Preparing\|Scaling\|Steps_to\|regularization") > $L/mut2.txt 2>&1
timeout 120 python scratch/C/defs.py 100 > $L/defs.txt 2>&1
