"""`ivx recipe`: runs all stages in order and compares their scores."""
