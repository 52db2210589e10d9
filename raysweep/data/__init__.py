"""Sources of faces: adapters, shards, roles of identities, synthetic faces."""
