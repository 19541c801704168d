"""Prepared data: a mixture written to shards of media and samples, with known sample sizes.

    DIR/data.json                       the mixture of the data sets below; written last
    DIR/SHA256SUMS                      checksum of every file
    DIR/manifest.json                   inputs, outputs, checksums, statistics
    DIR/job.json                        the request; a different request is rejected
    DIR/media.json                      the files in each media shard
    DIR/media/00000.array_record        one record per file: its bytes, or those of a proxy
    DIR/media/00000.npz                 times: float64, seconds of every frame; bounds: of each file
    DIR/media/00000.json                names, sizes, checksums, unreadable files
    DIR/NAME/00000.array_record         one record per sample: its annotation, media by record
    DIR/NAME/00000.npz                  tokens, trained tokens and grids of each sample
    DIR/NAME/00000.json                 counts, checksum, skipped samples
    DIR/NAME/manifest.json              shards of the data set, and the layout rule of its sizes

A shard is complete once its .json exists. Annotations refer to a record instead of a file, as in
media/00000.array_record#17/name.mp4; otherwise they have the format that `sources` reads.
"""
