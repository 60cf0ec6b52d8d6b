"""The admin API's routes by what they are about; `registry.api` puts them together."""
