"""What the memory and the recurrent baselines share: a sequence cut into tiles, and a step that runs over them."""
