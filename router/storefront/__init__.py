"""The page that customers see: the catalogue as a gallery and a playground per variant, over the same core as every door."""
