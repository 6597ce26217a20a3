"""How deep a memory should be (the paper's Fig. 7 and 8, small): loss and speed for L_M = 1 to 4 against length."""
