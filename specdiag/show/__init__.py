"""Tables, JSON and the HTML report."""
