"""What the offline partner knows: rules, replies, jokes. Pure functions of what it was sent."""
