"""Training on rented TPUs: TPU VMs (tpu_vm.py) and Kubernetes (xpk.py); README.md is the way from nothing to a run."""
