"""DNA: pretraining on any FASTA, and classification (paper, section 5.7 and Table 4)."""
