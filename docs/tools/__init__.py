"""What makes pages of the program itself: its commands, for the site and for man."""
