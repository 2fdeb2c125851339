"""Where accuracy is lost: a graph beside its FP32 reference, sub-layer by sub-layer.

`places` lists the sub-layers, `surgery` opens ONNX graphs at them, `taps` runs what it makes,
`survey` measures, `judge` says which place is at fault, `evidence` why, `harm` what each kind of
sub-layer does to the logits, `remedy` what a place in higher precision brings back, `record` keeps
it and `show` prints it.
"""
