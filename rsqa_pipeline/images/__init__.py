"""Open one image safely: file, tar member, Parquet cell, GeoTIFF."""
