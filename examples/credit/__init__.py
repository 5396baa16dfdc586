"""Credit scoring with the German credit data: data, features, two trained models and a demo."""
