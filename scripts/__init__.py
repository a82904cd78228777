"""Developer scripts, run as ``python -m scripts.NAME`` in a checkout; not part of the package.

- References from other implementations: ``make_goldens``, ``make_video_goldens`` (tests/goldens);
  ``make_vectors`` with ``vectors/``, ``make_model_vectors``, ``make_kills`` (conformance vectors).
  Their inputs: ``random_checkpoint``, ``odd_images``, ``sampling_cases``, ``video_cases``; their
  outputs: ``witness``.
- Checkpoints with random weights, tiny or of a published size: ``random_checkpoint``,
  ``checkpoint_files``.
- Comparisons and measurements: ``compare_with_transformers``, ``benchmark``, ``benchmark_diff``,
  ``calibrate_oracle``, ``oracle_versions``, ``fuzz``, ``mutate``, ``count_code``.
- Documentation: ``notebooks``, ``refresh_figures`` (every committed figure; parts of it:
  ``draw_figures``, ``cheat_sheet``), ``build_docs`` (the site; parts of it: ``landing``,
  ``reference_pages``, ``class_fields``, ``search_terms``, ``site_notebooks``).
- Training of the embedded checkpoint: the folders with ``train.py``.
"""
