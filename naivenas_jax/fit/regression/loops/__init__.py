"""Least squares inside loops: weights of recurrent cells and of scanned layers."""
