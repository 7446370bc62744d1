// Lets the search work from a folder: browsers start no Worker for a page that was opened as a file.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      this.scope = frame.contentWindow
      this.scope.postMessage = data => {
        const event = new MessageEvent("message", { data })
        this.dispatchEvent(event)
        if (this.onmessage) this.onmessage(event)
      }
      this.loaded = new Promise((resolve, reject) => {
        const load = source => new Promise((done, failed) => {
          const script = this.scope.document.createElement("script")
          script.src = source
          script.onload = done
          script.onerror = failed
          this.scope.document.body.append(script)
        })
        this.scope.importScripts = (...sources) => Promise.all(sources.map(load))
        load(url).then(resolve, reject)
      })
    }

    postMessage(data) {
      this.loaded.then(() => {
        this.scope.dispatchEvent(new this.scope.MessageEvent("message", { data }))
      })
    }

    terminate() {
      this.scope.frameElement.remove()
    }
  }
}
