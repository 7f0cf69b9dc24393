"""The file that holds the rows of each record type, in the folder of every asset that writes them."""

MAIN_TABLE = {
    "image_text_sample": "samples.parquet",
    "preference_pair": "pairs.parquet",
    "scored_sample": "scores.parquet",
    "subset": "ids.parquet",
    "benchmark_item": "items.parquet",
}

SIDE_TABLES = {"component": "components.parquet", "contamination": "decontamination.parquet"}
"""Tables that an asset has only if the profile enables them."""
