"""How good a detector is: matching, curves, protocols. Any callable that takes a photo and returns `Detections` can be scored."""
