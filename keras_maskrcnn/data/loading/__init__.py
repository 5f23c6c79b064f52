"""From records to batches: order of an epoch, worker threads, cache."""
