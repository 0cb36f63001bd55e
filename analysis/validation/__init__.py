"""What a fit is worth: hold-outs, claims, sensitivity to choices and rows."""
