"""What has to be looked at on a GPU, in one script that can be called again until all of it is done."""
