"""The video agent: a model that searches a video, inspects spans and answers with evidence."""
