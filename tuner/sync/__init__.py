"""Files that several machines share: a search's folder and its data, in a storage."""
