"""What the data is: schemas of record, codec, names, digests. Pure: no clock, file or network."""
