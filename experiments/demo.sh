#!/usr/bin/env bash
# The walk from mp4 files to answers, at `tiny` size: synthesize, train, evaluate, ask, report.
set -euo pipefail

start=$SECONDS
mixture="$DEMO/data/data.json"
run="$DEMO/run"
say() { printf '\n== %s\n' "$*"; }

say "1/5 synthesize a labelled data set of real mp4 files in $DEMO/data"
[ -f "$mixture" ] || ivx data synthesize --out="$DEMO/data" --preset=tiny

say "2/5 train from scratch (started again, it goes on where it stopped)"
ivx train --config=experiments/sft_short.py:scratch --workdir="$run" --config.data.mixture="$mixture"

say "3/5 evaluate on unseen videos"
ivx evaluate --workdir="$run" --split=synthetic_test

say "4/5 ask three questions of one unseen video"
clip=$(grep -m1 '"family": "attribute"' "$DEMO/data/test.jsonl" | sed 's/.*"url": "\([^"]*\)".*/\1/')
ivx chat --workdir="$run" --video="$DEMO/data/$clip" --question="What colour is the shape?" \
    --question="Which shape is it?" --question="How many shapes are there?"

say "5/5 report"
ivx report --workdir="$run"
printf '\nDone in %d min %d s.\n' $(((SECONDS - start) / 60)) $(((SECONDS - start) % 60))
