"""The library the pipeline's commands share: BERT question answering, measured and judged."""
