"""One offline HTML page that says what a run did, alone or beside others."""
