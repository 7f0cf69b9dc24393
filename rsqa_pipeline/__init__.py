"""Quality-driven curation of remote-sensing vision-language data with learned score models."""
