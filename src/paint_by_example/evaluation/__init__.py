"""How good edits are: benchmarks, methods, features, metrics, and the scores that come out.

Three steps, each of its own: pictures to features (`features`), features to statistics (`statistics`), statistics to a
figure (`frechet`, `mmd`, `quality`, `likeness`). What is measured on pixels needs no features: `background`, `seam`,
`edges`.

    benchmark, held_out, coco      items: a source, a mask, an exemplar
    baselines, stable_diffusion    methods to compare with; `editing` runs them and models over a benchmark
    scoring                        a benchmark and a folder of results -> `result.Scores`
    report, compare, sweep         scores and results -> a page, sheets of pictures
    study                          people's ranks of results; `study_app` asks them, `study_report` counts

All that is reported reads `result.Scores`, which `result.read_scores` takes from the JSON file of ``pbe evaluate``.
"""
