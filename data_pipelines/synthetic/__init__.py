"""Synthetic videos of coloured shapes: real mp4 files with answers known by construction.

scene      a clip as data (shapes, colours, motion, times), and its rendering to frames
families   nine families of questions: each generates a scene and its questions with answers
needles    long videos with shapes visible for a few seconds, and questions for an agent
traces     agent conversations that an oracle writes about such videos
turns      a question as messages: open-ended or multiple choice, with or without a thought
presets    which splits each data set has, and which families and question styles they use
write      renders clips, and writes annotations and the mixture file
lengths    random sample sizes, without samples, to test packing
"""
