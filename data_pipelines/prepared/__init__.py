"""A mixture written out for training: media and samples in shards, sizes known.

    DIR/data.json                       a mixture of the data sets below; written last
    DIR/SHA256SUMS                      a checksum of every file
    DIR/manifest.json                   what went in, what came out, checksums, statistics
    DIR/job.json                        what was asked for; another request is refused
    DIR/media.json                      which files each shard of media has
    DIR/media/00000.array_record        a record a file: its bytes, or those of a proxy
    DIR/media/00000.npz                 times: float64, seconds of every frame; bounds: of each file
    DIR/media/00000.json                names, sizes, checksums, what cannot be read
    DIR/NAME/00000.array_record         a record a sample: its annotation, media by their record
    DIR/NAME/00000.npz                  tokens, trained tokens and grids of each sample
    DIR/NAME/00000.json                 counts, checksum, samples left out
    DIR/NAME/manifest.json              the shards of a data set, and the rule of its sizes

A shard is whole once its .json is there. An annotation names a record in place of a file,
media/00000.array_record#17/name.mp4, and is otherwise as `sources` reads it.
"""
