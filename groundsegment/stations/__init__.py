"""Ground stations that fly on their own: what home gives them, what they bring back, and the agent that flies there."""
