"""What is wrong with that experiment: one check a fault, each with what it computes, expects and finds."""
