"""Figures of this study, one module each; specdiag draws those of a Dataset beside its own.

- `pretrained_and_scratch`: alpha of the same layers, pretrained and trained from scratch
- `data_efficiency`: test R² against the share of the training data
- `feature_spectra`: eigenvalues of the feature covariance by level of UnitDropout
- `chronic`: test R² of one decoder over months
- `transfer`: frozen base against scratch and ridge decoders
- `coverage`, `null_p`, `power`: how far intervals, p-values and verdicts can be trusted
- `collapse`: matrices that shrink under LAMB

Each module has `TITLE`, `plot(data)`, which returns a matplotlib Figure, `caption(data)`, and
`reason_not_drawn(data)`, which is '' when the figure can be drawn. `data` is a Dataset of
specdiag, or, in modules with a `TABLE`, the rows of that file of benchmarks/results.

`python -m figures` draws all of it.
"""
