"""Old requests in Parquet files of the artifact store, read and deleted together with live ones."""
