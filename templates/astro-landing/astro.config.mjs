import tailwindcss from "@tailwindcss/vite";
import { defineConfig } from "astro/config";

export default defineConfig({
  // The preview shows what a visitor sees. `true` brings Astro's toolbar into it.
  devToolbar: { enabled: false },
  vite: { plugins: [tailwindcss()] },
});
